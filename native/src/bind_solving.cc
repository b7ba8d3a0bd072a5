#include "bindings.h"
#include "cholesky.h"

namespace tonearm {
namespace {

/// (matrix [n, n], n) → whether it is positive definite
napi_value factoriseMatrix(const Arguments& arguments) {
  const Index n = arguments.integer(1);
  const Span<double> matrix = arguments.doubles(0);
  require(n >= 0 && matrix.size == n * n, "a square matrix was expected");
  napi_value result = nullptr;
  check(napi_get_boolean(arguments.env(), factorise(matrix.data, n), &result), "no boolean could be made");
  return result;
}

/// (factor [n, n], n, sides [count, n])
napi_value solveSides(const Arguments& arguments) {
  const Index n = arguments.integer(1);
  const Span<double> factor = arguments.doubles(0);
  const Span<double> sides = arguments.doubles(2);
  require(n > 0 && factor.size == n * n, "a square factor was expected");
  require(sides.size % n == 0 && sides.data != factor.data, "sides of the factor's width were expected");
  solve(factor.data, n, sides.data, sides.size / n);
  return nullptr;
}

}  // namespace

const Binding kSolvingBindings[] = {{"factorise", factoriseMatrix}, {"solve", solveSides}, {nullptr, nullptr}};

}  // namespace tonearm
