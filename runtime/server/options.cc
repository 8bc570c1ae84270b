#include "options.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>

namespace edgevit {

const char kUsage[] =
    R"(Serves this device to clients of TVM's RPC protocol, one at a time.

usage: edgevit-server [options]

  --host ADDRESS           address to listen on (default 127.0.0.1). The protocol gives whoever
                           reaches it full control, in plain text: forward a port instead of
                           listening on a network that others share.
  --port PORT              port to listen on (default 0: any free one)
  --port-end PORT          with --port: try the ports up to this one, itself excluded
  --tracker HOST:PORT      offer this device to a TVM tracker
  --key KEY                name under which clients ask the tracker for it
  --custom-addr ADDRESS    address the tracker gives to clients
  --work-dir DIR           where each session gets a folder (default: TMPDIR, /tmp)
  --idle-timeout S         end a session whose client asks nothing for S seconds (default 300)
  --session-timeout S      end every session after S seconds, unless its client asks for another
                           limit (default 0: never)
  --handshake-timeout S    drop a connection that does not introduce itself (default 5)
  --exit-with-stdin        end when standard input does, so that nothing outlives its parent
  --once                   serve one session, then exit
  --version                print versions as JSON
  --help                   print this text

Prints one line of JSON to stdout when it listens, then logs one JSON object a line to stderr.
)";

namespace {

int ParsePort(const std::string& option, const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0 || value < 0 || value > 65536) {
    throw UsageError(option + ": '" + text + "' is not a port number");
  }
  return static_cast<int>(value);
}

double ParseSeconds(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(value) || value < 0) {
    throw UsageError(option + ": '" + text + "' is not a number of seconds");
  }
  return value;
}

void ParseTracker(const std::string& text, Options* options) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    throw UsageError("--tracker: '" + text + "' is not HOST:PORT");
  }
  options->tracker_host = text.substr(0, colon);
  options->tracker_port = ParsePort("--tracker", text.substr(colon + 1));
}

bool SetFlag(const std::string& name, Options* options) {
  if (name == "--exit-with-stdin") return options->exit_with_stdin = true;
  if (name == "--once") return options->once = true;
  if (name == "--version") return options->version = true;
  if (name == "--help" || name == "-h") return options->help = true;
  return false;
}

bool SetValue(const std::string& name, const std::string& value, Options* options) {
  if (name == "--host") {
    options->host = value;
  } else if (name == "--port") {
    options->port = ParsePort(name, value);
  } else if (name == "--port-end") {
    options->port_end = ParsePort(name, value);
  } else if (name == "--tracker") {
    ParseTracker(value, options);
  } else if (name == "--key") {
    options->key = value;
  } else if (name == "--custom-addr") {
    options->custom_addr = value;
  } else if (name == "--work-dir") {
    options->work_dir = value;
  } else if (name == "--idle-timeout") {
    options->idle_timeout = ParseSeconds(name, value);
  } else if (name == "--session-timeout") {
    options->session_timeout = ParseSeconds(name, value);
  } else if (name == "--handshake-timeout") {
    options->handshake_timeout = ParseSeconds(name, value);
  } else {
    return false;
  }
  return true;
}

void CheckTogether(const Options& options) {
  if (options.port_end != 0 && options.port_end <= options.port) {
    throw UsageError("--port-end must be larger than --port");
  }
  if (options.tracker_port != 0 && options.key.empty()) {
    throw UsageError("--tracker needs a --key to be found by");
  }
  if (options.key.find_first_of(": \t\n\"\\") != std::string::npos) {
    throw UsageError("--key must not hold spaces, colons, quotes or backslashes");
  }
}

}  // namespace

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (SetFlag(name, &options)) continue;
    std::string value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    } else if (i + 1 < argc) {
      value = argv[++i];
    } else {
      throw UsageError(name + ": unknown option, or its value is missing");
    }
    if (!SetValue(name, value, &options)) throw UsageError(name + ": unknown option");
  }
  CheckTogether(options);
  return options;
}

}  // namespace edgevit
