// Moving elements without computing: slices, concatenation, transposes, padding and lookup are all copies between two
// strided views.
#pragma once

#include <vector>

#include "kernel_table.h"

namespace tonearm {

/// One axis of a copy: how many elements, and how far apart they lie on either side.
struct CopyAxis {
  Index size;
  Index sourceStride;
  Index targetStride;
};

/// target[Σ iₐ·targetStrideₐ] = source[Σ iₐ·sourceStrideₐ] for all indices, 4 bytes each. Strides may be zero on the
/// source's side (broadcast) or negative (reversal).
void copyStrided(const std::uint32_t* source, std::uint32_t* target, std::vector<CopyAxis> axes);

/// y[outer, i, :] = x[outer, indices[i], :] over x [outers, length, inner], 4-byte elements. Indices are in range.
void gather(const std::uint32_t* x, const std::int32_t* indices, std::uint32_t* y, Index outers, Index length, Index count,
            Index inner);

/// The `k` largest of each row [rows, length] in falling order; of equals, the one with the smaller index first.
void topK(const float* x, float* values, std::int32_t* indices, Index rows, Index length, Index k);

}  // namespace tonearm
