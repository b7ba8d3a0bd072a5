// The kernels of one instruction set: this file is compiled once for each (see isa.h).
#include "attention.h"
#include "doubles.h"
#include "gemm.h"
#include "linear.h"
#include "quantize.h"
#include "rows.h"

namespace tonearm::TONEARM_ISA {

#define TONEARM_TEXT_OF(name) #name
#define TONEARM_NAME_OF(name) TONEARM_TEXT_OF(name)

extern const KernelTable kernels;
const KernelTable kernels = {
    TONEARM_NAME_OF(TONEARM_ISA), linear, prepareRow, gemm, kGemmScratch, attention, attentionScratch, unary, binary, reduce,
    argMax, softmax, normalize, lstmCell, toHalf, roundToHalf, fromHalf, quantizeInt8, quantizeInt4, decodeRow,
    subtractProducts, subtractRows,
};

}  // namespace tonearm::TONEARM_ISA
