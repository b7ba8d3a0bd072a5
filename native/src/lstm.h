// One layer of a long short-term memory.
#pragma once

#include "kernel_table.h"

namespace tonearm {

/// Runs `steps` steps of `batch` sequences. `gates` [batch, steps, 4·units] holds x·W_ih and the biases; `recurrent` is
/// W_hh [4·units, units]; gates stand in the order input, forget, output, cell.
/// @param first hidden state before the first step [batch, units]
/// @param cell cell state [batch, units]; holds that of the last step afterwards
/// @param hidden [batch, steps, units], written
void lstm(const WeightView& recurrent, const float* gates, Index batch, Index steps, Index units, const float* first,
          float* cell, float* hidden);

}  // namespace tonearm
