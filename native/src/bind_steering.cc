#include "bindings.h"
#include "steer.h"

namespace tonearm {
namespace {

/// (operator, restoreNorm, h, strengths, steps, weights, along | null, goals | null, y, shape: places, directions, units,
/// width)
napi_value steerActivations(const Arguments& arguments) {
  const Index op = arguments.integer(0);
  require(op >= 0 && op <= static_cast<Index>(SteerOperator::replace), "there is no such operator");
  const std::int32_t* shape = arguments.integers(9, 4).data;
  SteerJob job;
  job.op = static_cast<SteerOperator>(op);
  job.restoreNorm = arguments.boolean(1);
  job.places = shape[0];
  job.directions = shape[1];
  job.units = shape[2];
  job.width = shape[3];
  require(job.places >= 0 && job.directions > 0 && job.units > 0 && job.width > 0, "sizes of a step are positive");
  job.h = arguments.floats(2, job.places * job.units * job.width);
  job.strengths = arguments.floats(3, job.places * job.directions);
  job.steps = arguments.floats(4, job.directions * job.units * job.width);
  job.weights = arguments.floats(5, job.directions * job.units);
  job.along = arguments.optionalFloats(6, job.units * job.width);
  job.goals = arguments.optionalFloats(7, job.units);
  job.y = arguments.floats(8, job.places * job.units * job.width);
  require(job.y != job.h, "an output must not be an input too");
  require(job.op != SteerOperator::clamp || (job.along != nullptr && job.goals != nullptr), "clamping needs a goal");
  steer(job);
  return nullptr;
}

}  // namespace

const Binding kSteeringBindings[] = {{"steer", steerActivations}, {nullptr, nullptr}};

}  // namespace tonearm
