// Which table of kernels is in use.
#pragma once

#include <string>
#include <vector>

#include "kernel_table.h"

namespace tonearm {

/// The kernels in use: at first the best that this processor can run.
const KernelTable& kernels();

/// Names of the tables that were built and that this processor can run, best first.
std::vector<std::string> availableKernels();

/// Uses the table of that name from now on. False if there is none.
bool chooseKernels(const std::string& name);

}  // namespace tonearm
