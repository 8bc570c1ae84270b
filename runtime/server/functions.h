// Functions a client may call by name.
#ifndef EDGEVIT_SERVER_FUNCTIONS_H_
#define EDGEVIT_SERVER_FUNCTIONS_H_

#include <string>

namespace edgevit {

// Registers, for a session that keeps its files in `folder`:
//   tvm.rpc.server.{workpath, upload, download, remove, load_module}   what TVM's clients expect
//   edgevit.server.info() -> JSON, edgevit.server.usage() -> JSON      see device_info.h
//   edgevit.server.sha256(name) -> digest of a file in the folder
//   edgevit.server.run_batch(...) -> outputs of many runs              see batch.h
// File names are plain: no folders, no way out of `folder`.
// `own_threads` is the number of threads that do not run the client's calls.
void RegisterFunctions(const std::string& folder, int own_threads);

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_FUNCTIONS_H_
