// Many runs of a program in one call.
#ifndef EDGEVIT_SERVER_BATCH_H_
#define EDGEVIT_SERVER_BATCH_H_

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/string.h>

#include <cstdint>
#include <string>

namespace edgevit {

// Runs the function `entry` of a loaded virtual machine `count` times, and returns the outputs.
//
// Tensors travel as bytes, run after run, in each run one tensor after the other, elements in
// row-major order; so a batch costs the client one round trip, where tensors on the device would
// cost one each for allocating, for copying there and back, for every call and for freeing.
// `inputs` and `outputs` name the tensors of one run, like
// "float32[1,3,256,256] int64[2,3] bool[]".
//
// Throws ValueError, with a sentence, when the bytes are not those of `count` runs, when the program
// has no such entry or takes another number of tensors, and when what it returns is not `outputs`.
tvm::ffi::Bytes RunBatch(const tvm::ffi::Module& machine, const std::string& entry, int64_t count,
                         const std::string& inputs, const std::string& outputs,
                         const tvm::ffi::Bytes& data);

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_BATCH_H_
