#include "functions.h"

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "batch.h"
#include "device_info.h"
#include "sha256.h"
#include "work_folder.h"

namespace edgevit {
namespace {

using tvm::ffi::Bytes;
using tvm::ffi::Function;
using tvm::ffi::Module;
using tvm::ffi::String;

// Replaces whatever the runtime registered under that name.
template <typename Callable>
void Register(const char* name, Callable function) {
  Function::SetGlobal(name, Function::FromTyped(std::move(function), name), /*can_override=*/true);
}

std::string Resolve(const std::string& folder, const std::string& name) {
  try {
    return PathInFolder(folder, name);
  } catch (const std::invalid_argument& error) {
    TVM_FFI_THROW(ValueError) << error.what();
    TVM_FFI_UNREACHABLE();
  }
}

// Unlike TVM's own, these say so when the device's disk is full or a file is missing.
void WriteFile(const std::string& path, const std::string& data) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(data.data(), static_cast<std::streamsize>(data.size()));
  file.close();
  if (!file) {
    const int error = errno;
    std::remove(path.c_str());
    TVM_FFI_THROW(RuntimeError) << "cannot store " << data.size()
                                << " bytes on the device: " << std::strerror(error);
  }
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream data;
  if (!(data << file.rdbuf()) && !file.is_open()) {
    TVM_FFI_THROW(RuntimeError) << "cannot read " << path.substr(path.rfind('/') + 1) << ": "
                                << std::strerror(errno);
  }
  return data.str();
}

}  // namespace

void RegisterFunctions(const std::string& folder, int own_threads) {
  Register("tvm.rpc.server.workpath", [folder](std::string name) -> String {
    // Clients ask for the folder itself with an empty name.
    return name.empty() ? folder : Resolve(folder, name);
  });
  Register("tvm.rpc.server.upload", [folder](std::string name, std::string data) {
    WriteFile(Resolve(folder, name), data);
  });
  Register("tvm.rpc.server.download",
           [folder](std::string name) -> Bytes { return Bytes(ReadFile(Resolve(folder, name))); });
  Register("tvm.rpc.server.remove",
           [folder](std::string name) { RemoveTree(Resolve(folder, name)); });
  Register("tvm.rpc.server.load_module", [folder](std::string name) -> Module {
    return Module::LoadFromFile(Resolve(folder, name));
  });
  Register("edgevit.server.info", []() -> String { return DeviceInfo(); });
  Register("edgevit.server.usage", [own_threads]() -> String { return DeviceUsage(own_threads); });
  Register("edgevit.server.sha256", [folder](std::string name) -> String {
    try {
      return Sha256File(Resolve(folder, name));
    } catch (const std::runtime_error& error) {
      TVM_FFI_THROW(RuntimeError) << "cannot read " << name << ": " << error.what();
      TVM_FFI_UNREACHABLE();
    }
  });
  Register("edgevit.server.run_batch", RunBatch);
}

}  // namespace edgevit
