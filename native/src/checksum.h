// XXH32 of Yann Collet's xxHash (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), seed 0: what packed
// checkpoints carry for every tensor. src/checkpoint/checksum.ts computes the same.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tonearm {

std::uint32_t xxh32(const void* data, std::size_t bytes);

}  // namespace tonearm
