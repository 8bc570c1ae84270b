// Registers the ELF loader as TVM's loader of `.so` files.
#include <tvm/ffi/memory.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/ffi/string.h>

#include <string>
#include <string_view>

#include "elf_image.h"
#include "extra/module_internal.h"

namespace edgevit {
namespace {

class ElfLibrary final : public tvm::ffi::Library {
 public:
  explicit ElfLibrary(const std::string& path) : image_(path) {}
  void* GetSymbol(const tvm::ffi::String& name) final {
    return image_.Find(std::string_view(name.data(), name.size()));
  }

 private:
  ElfImage image_;
};

tvm::ffi::Module LoadLibrary(const tvm::ffi::String& path, const tvm::ffi::String&) {
  try {
    return tvm::ffi::CreateLibraryModule(tvm::ffi::make_object<ElfLibrary>(path));
  } catch (const LoadError& error) {
    TVM_FFI_THROW(RuntimeError) << error.what();
    TVM_FFI_UNREACHABLE();
  }
}

TVM_FFI_STATIC_INIT_BLOCK() {
  tvm::ffi::reflection::GlobalDef().def("ffi.Module.load_from_file.so", LoadLibrary);
}

}  // namespace
}  // namespace edgevit
