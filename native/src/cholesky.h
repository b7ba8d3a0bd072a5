// Symmetric positive definite equations in float64, by Cholesky's method: what ridge probes are solved with.
#pragma once

#include "kernel_table.h"

namespace tonearm {

/// Replaces the lower triangle of a symmetric matrix [n, n] by its factor L, matrix = L·Lᵀ. What lies above the diagonal
/// is not read and left as it is. False where the matrix is not positive definite; it then holds half a factor.
bool factorise(double* matrix, Index n);

/// Replaces each of `count` right-hand sides [count, n] by its solution x of L·Lᵀ·x = side.
void solve(const double* factor, Index n, double* sides, Index count);

}  // namespace tonearm
