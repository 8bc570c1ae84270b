#include "batch.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/runtime/tensor.h>

#include <cstdint>
#include <cstring>
#include <sstream>
#include <utility>
#include <vector>

namespace edgevit {
namespace {

using tvm::ffi::Any;
using tvm::ffi::AnyView;
using tvm::ffi::Array;
using tvm::ffi::Bytes;
using tvm::ffi::Function;
using tvm::ffi::Module;
using tvm::runtime::Tensor;

// More than any device has; sums and products of two such sizes do not overflow.
constexpr uint64_t kMostBytes = uint64_t{1} << 31;

// One tensor of a run.
struct Form {
  DLDataType dtype;
  std::vector<int64_t> shape;
  uint64_t bytes;
};

uint64_t Times(uint64_t bytes, uint64_t count, const std::string& what) {
  if (count != 0 && bytes > kMostBytes / count) {
    TVM_FFI_THROW(ValueError) << what << " has more than 2 GiB; send fewer runs at once";
  }
  return bytes * count;
}

// Of "float32[1,3,256,256]".
Form ParseForm(const std::string& text) {
  const size_t open = text.find('[');
  if (open == 0 || open == std::string::npos || text.back() != ']') {
    TVM_FFI_THROW(ValueError) << "'" << text << "' is no tensor; write it like float32[1,3,32,32]";
  }
  Form form = {tvm::ffi::StringToDLDataType(text.substr(0, open)), {}, 0};
  const uint64_t bits = uint64_t{form.dtype.bits} * form.dtype.lanes;
  if (bits == 0 || bits % 8 != 0) {
    TVM_FFI_THROW(ValueError) << "'" << text << "' has elements that are no whole bytes";
  }
  form.bytes = bits / 8;
  std::istringstream dims(text.substr(open + 1, text.size() - open - 2));
  for (std::string dim; std::getline(dims, dim, ',');) {
    if (dim.empty() || dim.size() > 10 || dim.find_first_not_of("0123456789") != dim.npos) {
      TVM_FFI_THROW(ValueError) << "'" << dim << "' in '" << text << "' is no size of a tensor";
    }
    form.shape.push_back(std::stoll(dim));
    form.bytes = Times(form.bytes, static_cast<uint64_t>(form.shape.back()), text);
  }
  return form;
}

std::vector<Form> ParseForms(const std::string& text) {
  std::vector<Form> forms;
  std::istringstream words(text);
  for (std::string word; words >> word;) forms.push_back(ParseForm(word));
  return forms;
}

// Bytes of `count` runs.
uint64_t SizeOf(const std::vector<Form>& forms, uint64_t count, const char* what) {
  uint64_t sum = 0;
  for (const Form& form : forms) {
    sum += form.bytes;
    if (sum > kMostBytes) TVM_FFI_THROW(ValueError) << what << " of a run have more than 2 GiB";
  }
  return Times(sum, count, what);
}

std::string Describe(DLDataType dtype, const int64_t* shape, size_t dims) {
  std::ostringstream text;
  text << tvm::ffi::DLDataTypeToString(dtype) << '[';
  for (size_t i = 0; i < dims; ++i) text << (i ? "," : "") << shape[i];
  text << ']';
  return text.str();
}

// The program's function, which must take `arity` tensors.
Function FindEntry(const Module& machine, const std::string& entry, size_t arity) {
  if (std::string(machine->kind()) != "relax.VirtualMachine") {
    TVM_FFI_THROW(ValueError) << "a batch runs on a virtual machine, not on a module of kind "
                              << machine->kind();
  }
  const auto function = machine->GetFunction(entry);
  if (!function.has_value()) {
    TVM_FFI_THROW(ValueError) << "the program has no function '" << entry << "'";
  }
  const auto taken = machine->GetFunction("get_function_arity").value()(entry).cast<int64_t>();
  if (taken != static_cast<int64_t>(arity)) {
    TVM_FFI_THROW(ValueError) << "'" << entry << "' takes " << taken << " tensors, not " << arity;
  }
  return *function;
}

// What a run returned: a tensor, or several.
std::vector<Tensor> Returned(const Any& result) {
  if (auto tensor = result.as<Tensor>()) return {*tensor};
  std::vector<Tensor> tensors;
  if (auto several = result.as<Array<Any>>()) {
    for (const Any& one : *several) {
      if (auto tensor = one.as<Tensor>()) tensors.push_back(*tensor);
    }
    if (tensors.size() == several->size()) return tensors;
  }
  TVM_FFI_THROW(ValueError) << "the program returns something else than tensors";
  TVM_FFI_UNREACHABLE();
}

void Append(const Tensor& tensor, const Form& form, size_t index, std::string* data) {
  const std::vector<int64_t> shape(tensor->shape, tensor->shape + tensor->ndim);
  const bool same = tensor->dtype == form.dtype && shape == form.shape;
  if (!same || !tensor.IsContiguous() || tensor->device.device_type != kDLCPU) {
    TVM_FFI_THROW(ValueError) << "output " << index << " of the program is "
                              << Describe(tensor->dtype, shape.data(), shape.size()) << ", not "
                              << Describe(form.dtype, form.shape.data(), form.shape.size());
  }
  data->append(static_cast<const char*>(tensor->data) + tensor->byte_offset, form.bytes);
}

}  // namespace

Bytes RunBatch(const Module& machine, const std::string& entry, int64_t count,
               const std::string& inputs, const std::string& outputs, const Bytes& data) {
  const std::vector<Form> taken = ParseForms(inputs);
  const std::vector<Form> given = ParseForms(outputs);
  if (count < 1) TVM_FFI_THROW(ValueError) << "a batch of " << count << " runs cannot be run";
  const uint64_t needed = SizeOf(taken, count, "the inputs");
  if (data.size() != needed) {
    TVM_FFI_THROW(ValueError) << count << " x " << inputs << " are " << needed << " bytes, not "
                              << data.size();
  }
  const Function function = FindEntry(machine, entry, taken.size());
  std::vector<Tensor> tensors;
  std::vector<AnyView> arguments;
  for (const Form& form : taken) {
    tensors.push_back(Tensor::Empty(form.shape, form.dtype, DLDevice{kDLCPU, 0}));
  }
  for (const Tensor& tensor : tensors) arguments.emplace_back(tensor);

  std::string filled;
  filled.reserve(SizeOf(given, count, "the outputs"));
  const char* next = data.data();
  for (int64_t run = 0; run < count; ++run) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      std::memcpy(tensors[i]->data, next, taken[i].bytes);
      next += taken[i].bytes;
    }
    Any result;
    function.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
    const std::vector<Tensor> returned = Returned(result);
    if (returned.size() != given.size()) {
      TVM_FFI_THROW(ValueError) << "'" << entry << "' returns " << returned.size()
                                << " tensors, not " << given.size();
    }
    for (size_t i = 0; i < given.size(); ++i) Append(returned[i], given[i], i, &filled);
  }
  return Bytes(std::move(filled));
}

}  // namespace edgevit
