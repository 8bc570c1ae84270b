// edgevit-server: lets a host load, run and time compiled models on this device.
#include <tvm/ffi/error.h>

#include <cstdio>
#include <exception>

#include "device_info.h"
#include "options.h"
#include "server.h"

int main(int argc, char** argv) {
  try {
    const edgevit::Options options = edgevit::ParseOptions(argc, argv);
    if (options.help) {
      std::fputs(edgevit::kUsage, stdout);
      return 0;
    }
    if (options.version) {
      std::puts(edgevit::BuildInfo().str().c_str());
      return 0;
    }
    return edgevit::Server(options).Run();
  } catch (const edgevit::UsageError& error) {
    std::fprintf(stderr, "edgevit-server: %s\nTry --help.\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "edgevit-server: %s\n", error.what());
    return 1;
  }
}
