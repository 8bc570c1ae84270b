#include "log.h"

#include <tvm/runtime/logging.h>
#include <unistd.h>

#include <string>

namespace edgevit {

void Log(std::string_view event, const JsonObject& fields) {
  const std::string rest = fields.str();
  std::string line = JsonObject().Add("event", event).str();
  if (rest.size() > 2) line = line.substr(0, line.size() - 1) + ", " + rest.substr(1);
  line += '\n';
  // A log that cannot be written is no reason to stop serving.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace edgevit

// TVM's own messages go the same way (TVM_LOG_CUSTOMIZE).
namespace tvm {
namespace runtime {
namespace detail {

void LogFatalImpl(const std::string& file, int line, const std::string& message) {
  (void)file;
  (void)line;
  TVM_FFI_THROW(InternalError) << message;
  TVM_FFI_UNREACHABLE();
}

void LogMessageImpl(const std::string& file, int line, int level, const std::string& message) {
  constexpr int kWarning = 2;
  if (level < kWarning) return;
  edgevit::Log("runtime", edgevit::JsonObject()
                              .Add("message", message)
                              .Add("file", file.substr(file.rfind('/') + 1))
                              .Add("line", line));
}

}  // namespace detail
}  // namespace runtime
}  // namespace tvm
