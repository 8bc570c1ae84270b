// NVTX marks ranges for NVIDIA's profilers; on the devices served here there is nothing to mark.
#ifndef EDGEVIT_SHIM_TVM_SUPPORT_CUDA_NVTX_H_
#define EDGEVIT_SHIM_TVM_SUPPORT_CUDA_NVTX_H_

namespace tvm {
namespace support {

struct NVTXScopedRange {
  template <typename Name>
  explicit NVTXScopedRange(const Name&) {}
};

}  // namespace support
}  // namespace tvm

#endif  // EDGEVIT_SHIM_TVM_SUPPORT_CUDA_NVTX_H_
