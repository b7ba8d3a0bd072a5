#include "lstm.h"

#include <vector>

#include "dispatch.h"
#include "parallel.h"

namespace tonearm {

void lstm(const WeightView& recurrent, const float* gates, Index batch, Index steps, Index units, const float* first,
          float* cell, float* hidden) {
  const KernelTable& kernel = kernels();
  const Index stride = (units + 31) / 32 * 32;
  const bool integer = recurrent.storage == Storage::int8 || recurrent.storage == Storage::int4;
  const auto size = [](Index n) { return static_cast<std::size_t>(n); };
  std::vector<float> previous(size(stride));
  std::vector<std::int16_t> rounded(integer ? size(stride) : 0);
  std::vector<float> products(size(4 * units));
  for (Index item = 0; item < batch; ++item) {
    const float* before = first + item * units;
    for (Index step = 0; step < steps; ++step) {
      const float scale =
          kernel.prepareRow(before, units, stride, previous.data(), integer ? rounded.data() : nullptr);
      LinearJob job;
      job.weights = recurrent;
      job.x = previous.data();
      job.xStride = stride;
      job.quantizedX = rounded.data();
      job.xScales = &scale;
      job.rows = 1;
      job.y = products.data();
      const float* input = gates + (item * steps + step) * 4 * units;
      float* output = hidden + (item * steps + step) * units;
      // A part computes all four gates of its units, so that it can update their cells without waiting for the others.
      parallelFor(units, 32, [&](Index begin, Index end) {
        for (Index gate = 0; gate < 4; ++gate) kernel.linear(job, gate * units + begin, gate * units + end);
        kernel.lstmCell(input, products.data(), cell + item * units, output, units, begin, end);
      });
      before = output;
    }
  }
}

}  // namespace tonearm
