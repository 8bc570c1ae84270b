// What this machine is, and what the present process has used of it. Both as JSON objects; a value
// the system does not reveal is left out.
#ifndef EDGEVIT_SERVER_DEVICE_INFO_H_
#define EDGEVIT_SERVER_DEVICE_INFO_H_

#include <string>

#include "json.h"

namespace edgevit {

// Versions of server and runtime, architecture, operating system: known when compiled.
JsonObject BuildInfo();

// Cores this process may use.
int CoreCount();

// BuildInfo and: kernel, cores, memory_bytes, cpu_model, cpu_max_mhz (one number a core, so that
// big and little cores can be told apart).
std::string DeviceInfo();

// cpu_seconds and peak_rss_bytes of this process, threads, load_average_1m, cpu_mhz_max,
// cpu_mhz_current, temperature_c.
// `own_threads` are the server's and not counted.
std::string DeviceUsage(int own_threads);

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_DEVICE_INFO_H_
