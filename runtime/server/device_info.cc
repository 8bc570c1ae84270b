#include "device_info.h"

#include <dirent.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <vector>

#include "arm_cores.h"

#ifndef EDGEVIT_VERSION
#error "the build defines EDGEVIT_VERSION, EDGEVIT_TVM_VERSION and EDGEVIT_TVM_FFI_VERSION"
#endif

namespace edgevit {
namespace {

#if defined(__x86_64__)
constexpr char kArchitecture[] = "x86_64";
#elif defined(__aarch64__)
constexpr char kArchitecture[] = "aarch64";
#else
constexpr char kArchitecture[] = "armv7";
#endif

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  // Device-tree strings end with a zero, the others with a line feed.
  std::string result = text.str();
  result.erase(result.find_last_not_of(std::string_view("\0\n ", 3)) + 1);
  return result;
}

std::optional<double> ReadNumber(const std::string& path) {
  const std::string text = ReadText(path);
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') return std::nullopt;
  return value;
}

// The processor's name or, where ARM Linux gives none, the kinds of its cores by part number.
std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  std::string parts;
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string value = line.substr(colon + 2);
    if (line.rfind("model name", 0) == 0) return value;
    if (line.rfind("CPU part", 0) != 0) continue;
    const std::string name = ArmCoreName(value);
    if (parts.find(name) == std::string::npos) parts += (parts.empty() ? "" : ", ") + name;
  }
  return parts;
}

// One value a core from cpufreq, in MHz; empty when not all cores tell.
std::vector<double> CoreFrequencies(const std::string& file) {
  std::vector<double> result;
  const long cores = sysconf(_SC_NPROCESSORS_CONF);
  for (long core = 0; core < cores; ++core) {
    const auto khz =
        ReadNumber("/sys/devices/system/cpu/cpu" + std::to_string(core) + "/cpufreq/" + file);
    if (!khz) return {};
    result.push_back(*khz / 1000);
  }
  return result;
}

void AddFrequencies(JsonObject* object, const char* key, const char* file) {
  const std::vector<double> values = CoreFrequencies(file);
  if (!values.empty()) object->AddRaw(key, JsonArray(values));
}

// The hottest zone that belongs to the processor or, where none is named so, the hottest of all.
std::optional<double> Temperature() {
  std::optional<double> processor;
  std::optional<double> any;
  for (int zone = 0; zone < 64; ++zone) {
    const std::string folder = "/sys/class/thermal/thermal_zone" + std::to_string(zone) + "/";
    const auto millidegrees = ReadNumber(folder + "temp");
    if (!millidegrees) continue;
    const double celsius = *millidegrees / 1000;
    const std::string type = ReadText(folder + "type");
    const bool names_processor =
        type.find("cpu") != std::string::npos || type.find("soc") != std::string::npos;
    if (names_processor) processor = std::max(processor.value_or(celsius), celsius);
    any = std::max(any.value_or(celsius), celsius);
  }
  return processor ? processor : any;
}

int CountThreads() {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/task"), closedir);
  int count = 0;
  while (const dirent* entry = folder ? readdir(folder.get()) : nullptr) {
    count += entry->d_name[0] != '.';
  }
  return count;
}

double ToSeconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

}  // namespace

int CoreCount() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return CPU_COUNT(&allowed);
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

JsonObject BuildInfo() {
  JsonObject info;
  info.Add("version", EDGEVIT_VERSION)
      .Add("tvm", EDGEVIT_TVM_VERSION)
      .Add("tvm_ffi", EDGEVIT_TVM_FFI_VERSION)
      .Add("arch", kArchitecture)
      .Add("os", "linux")
      .Add("libc", "musl");
  return info;
}

std::string DeviceInfo() {
  JsonObject info = BuildInfo();
  utsname name{};
  if (uname(&name) == 0) info.Add("kernel", name.release);
  info.Add("cores", CoreCount());
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  if (pages > 0) info.Add("memory_bytes", pages * int64_t{sysconf(_SC_PAGESIZE)});
  const std::string model = CpuModel();
  if (!model.empty()) info.Add("cpu_model", model);
  const std::string board = ReadText("/sys/firmware/devicetree/base/model");
  if (!board.empty()) info.Add("board", board);
  AddFrequencies(&info, "cpu_max_mhz", "cpuinfo_max_freq");
  return info.str();
}

std::string DeviceUsage(int own_threads) {
  JsonObject usage;
  rusage used{};
  if (getrusage(RUSAGE_SELF, &used) == 0) {
    usage.Add("cpu_seconds", ToSeconds(used.ru_utime) + ToSeconds(used.ru_stime));
    usage.Add("peak_rss_bytes", int64_t{used.ru_maxrss} * 1024);
  }
  double load = 0;
  if (getloadavg(&load, 1) == 1) usage.Add("load_average_1m", load);
  if (const int threads = CountThreads() - own_threads; threads > 0) usage.Add("threads", threads);
  AddFrequencies(&usage, "cpu_mhz_max", "cpuinfo_max_freq");
  AddFrequencies(&usage, "cpu_mhz_current", "scaling_cur_freq");
  if (const auto celsius = Temperature()) usage.Add("temperature_c", *celsius);
  return usage.str();
}

}  // namespace edgevit
