#include "model.hpp"

#include <ggml-backend.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "error_log.hpp"

namespace llama_cpp {
namespace {

/// Empty if the model has none of that name.
std::string metadata(const llama_model& model, const char* key) {
  char text[128] = {};
  return llama_model_meta_val_str(&model, key, text, sizeof text) < 0 ? "" : text;
}

[[noreturn]] void fail(const std::string& what, const ErrorLog& log) {
  const std::string cause = log.cause();
  throw std::runtime_error(what + (cause.empty() ? "" : ": " + cause));
}

/// Of what llama.cpp says itself in no clear way.
void check_file(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  const std::string what = "llama.cpp cannot load " + path + ": ";
  if (error) throw std::runtime_error(what + error.message());
  if (std::filesystem::is_directory(status))
    throw std::runtime_error(what + "it is a folder, not a GGUF file");
  if (std::filesystem::is_regular_file(status) && std::filesystem::file_size(path, error) == 0)
    throw std::runtime_error(what + "it is empty");
}

/// llama.cpp aborts the program if a server cannot be reached, so try first.
void check_reachable(const std::string& server) {
  const std::size_t colon = server.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == server.size())
    throw std::runtime_error("RPC server '" + server + "' is not of the form host:port");
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  const std::string host = server.substr(0, colon), port = server.substr(colon + 1);
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0)
    throw std::runtime_error("RPC server " + server + ": " + gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, freeaddrinfo);
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    const int connection = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (connection < 0) continue;
    const bool connected = connect(connection, address->ai_addr, address->ai_addrlen) == 0;
    close(connection);
    if (connected) return;
  }
  throw std::runtime_error("RPC server " + server + " cannot be reached");
}

/// The servers' devices, ending with null.
std::vector<ggml_backend_dev_t> devices_of(const std::vector<std::string>& servers) {
  using AddServer = ggml_backend_reg_t (*)(const char*);
  const ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
  if (rpc == nullptr) throw std::runtime_error("llama.cpp was built without its RPC backend (GGML_RPC)");
  const auto add_server =
      reinterpret_cast<AddServer>(ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server"));
  std::vector<ggml_backend_dev_t> devices;
  for (const std::string& server : servers) {
    check_reachable(server);
    const ggml_backend_reg_t added = add_server(server.c_str());
    if (added == nullptr || ggml_backend_reg_dev_count(added) == 0)
      throw std::runtime_error("RPC server " + server + " offers no device");
    for (std::size_t i = 0; i < ggml_backend_reg_dev_count(added); ++i)
      devices.push_back(ggml_backend_reg_dev_get(added, i));
  }
  devices.push_back(nullptr);
  return devices;
}

}  // namespace

void keep_quiet() {
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
}

llama_model_ptr load_model(const std::string& path, const std::vector<std::string>& servers) {
  llama_model_params parameters = llama_model_default_params();
  std::vector<ggml_backend_dev_t> devices;
  if (!servers.empty()) {
    devices = devices_of(servers);
    parameters.devices = devices.data();
    parameters.n_gpu_layers = -1;  // all of them
  }
  check_file(path);
  const ErrorLog log;
  llama_model_ptr model(llama_model_load_from_file(path.c_str(), parameters));
  if (model == nullptr) fail("llama.cpp cannot load " + path, log);
  return model;
}

llama_context_params context_parameters(const ContextSettings& settings) noexcept {
  llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = static_cast<std::uint32_t>(settings.cells * settings.sequences);
  parameters.n_seq_max = static_cast<std::uint32_t>(settings.sequences);
  parameters.swa_full = true;  // so that layers with windows have a cell for each position, as others do
  parameters.kv_unified = settings.sequences == 1;
  // llama.cpp aborts where a batch is smaller than one token of each sequence.
  parameters.n_batch = static_cast<std::uint32_t>(std::max(settings.batch, settings.sequences));
  parameters.n_ubatch =
      static_cast<std::uint32_t>(settings.micro_batch > 0 ? settings.micro_batch : parameters.n_batch);
  parameters.n_threads = parameters.n_threads_batch = settings.threads;
  parameters.flash_attn_type =
      settings.flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  parameters.type_k = settings.key_type();
  parameters.type_v = settings.value_type();
  return parameters;
}

namespace {

/// Refuses what llama.cpp aborts on without flash attention: heads of which two share a block.
void check_blocks(const llama_model& model, ggml_type type) {
  const auto heads = llama_model_n_head(&model);
  const std::string architecture = metadata(model, "general.architecture");
  const std::string length = metadata(model, (architecture + ".attention.key_length").c_str());
  const int head_dim = !length.empty() ? std::atoi(length.c_str())
                       : heads > 0     ? llama_model_n_embd(&model) / heads
                                       : 0;
  const auto block = static_cast<int>(ggml_blck_size(type));
  if (head_dim % block != 0)
    throw std::invalid_argument(std::string("llama.cpp cannot hold keys of type ") + ggml_type_name(type) +
                                ": heads of this model have " + std::to_string(head_dim) +
                                " numbers, which is no multiple of " + std::to_string(block) +
                                "; use f16 or f32");
}

}  // namespace

llama_context_ptr make_context(llama_model& model, GraphTap& tap, const ContextSettings& settings) {
  check_blocks(model, settings.key_type());
  llama_context_params parameters = context_parameters(settings);
  tap.install(parameters);
  const ErrorLog log;
  llama_context_ptr context(llama_init_from_model(&model, parameters));
  if (context == nullptr)
    fail("llama.cpp cannot make a context of " + std::to_string(settings.cells) + " cells", log);
  return context;
}

}  // namespace llama_cpp
