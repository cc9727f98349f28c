#include "llama_weights.hpp"

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>

#include "dequantize.hpp"
#include "gguf_error.hpp"
#include "llama_metadata.hpp"
#include "matrix.hpp"

namespace smollm2 {
namespace {

/// Reads tensors of the shapes that they must have.
class Loader {
 public:
  Loader(const GgufFile& file, ThreadPool& pool)
      : file_(file), pool_(pool), read_(LlamaRope::tensors.begin(), LlamaRope::tensors.end()) {}

  std::vector<float> vector(const std::string& name, std::size_t size) {
    const GgufTensor& tensor = checked(name, 1, size);
    std::vector<float> numbers(size);
    dequantize(tensor.type, tensor.data, numbers);
    return numbers;
  }

  /// Empty if the file has no such tensor.
  std::vector<float> optional_vector(const std::string& name, std::size_t size) {
    return file_.has_tensor(name) ? vector(name, size) : std::vector<float>();
  }

  Linear matrix(const std::string& name, std::size_t outputs, std::size_t inputs) {
    return stacked({{name, outputs}}, inputs);
  }

  struct Part {
    std::string name;
    std::size_t outputs;
  };

  /// Several matrices with the same inputs, one below the other.
  Linear stacked(const std::vector<Part>& parts, std::size_t inputs) {
    std::size_t outputs = 0;
    std::vector<GgmlType> types;
    for (const Part& part : parts) {
      const GgufTensor& tensor = checked(part.name, part.outputs, inputs);
      outputs += tensor.rows();
      types.push_back(tensor.type);
    }
    Linear linear(outputs, inputs, types);
    std::size_t first = 0;
    for (const Part& part : parts) {
      read(file_.tensor(part.name), first, linear);
      first += part.outputs;
    }
    return linear;
  }

  /// Several vectors, one below the other, with zeros for those that the file lacks; empty if it lacks all.
  std::vector<float> stacked_vector(const std::vector<Part>& parts) {
    std::vector<float> all;
    if (std::ranges::none_of(parts, [&](const Part& part) { return file_.has_tensor(part.name); }))
      return all;
    for (const Part& part : parts) {
      std::vector<float> numbers = optional_vector(part.name, part.outputs);
      numbers.resize(part.outputs);
      all.insert(all.end(), numbers.begin(), numbers.end());
    }
    return all;
  }

  /// Throws if the file has a tensor that has not been read. One of LlamaRope's counts as read.
  void refuse_unread() const {
    for (const std::string_view name : file_.tensor_names())
      if (!read_.contains(name))
        fail_in(file_, "tensor ", quoted(name), " is not known to this engine", elsewhere);
  }

 private:
  const GgufTensor& checked(const std::string& name, std::size_t rows, std::size_t columns) {
    const GgufTensor& tensor = file_.tensor(name);
    read_.insert(name);
    std::ostringstream problem;
    if (tensor.columns() != columns || tensor.dims[1] != rows || tensor.rows() != rows)
      problem << "shape " << tensor.rows() << " x " << tensor.columns() << ", but the metadata asks for "
              << rows << " x " << columns;
    try {
      dequantize(tensor.type, {}, {});
    } catch (const GgufError& error) {
      problem << error.what();
    }
    if (const std::string text = problem.str(); !text.empty())
      fail_in(file_, "tensor ", smollm2::quoted(name), ": ", text);
    return tensor;
  }

  /// Sets rows `first` .. of `linear`. Nothing here can throw: the type is known, and the file has made sure
  /// of the data's size.
  void read(const GgufTensor& tensor, std::size_t first, Linear& linear) const {
    const auto rows = static_cast<std::size_t>(tensor.rows());
    const std::size_t bytes = tensor.data.size() / rows;
    // A thread takes rows of one panel.
    const std::size_t first_panel = first / panel_width,
                      panels = padded(first + rows) / panel_width - first_panel;
    pool_.parallel_for(panels, [&](std::size_t panel, std::size_t /*thread*/) {
      const std::size_t begin = (first_panel + panel) * panel_width;
      for (std::size_t row = std::max(begin, first); row < std::min(begin + panel_width, first + rows); ++row)
        linear.set_row(row, tensor.type, tensor.data.subspan((row - first) * bytes, bytes));
    });
  }

  const GgufFile& file_;
  ThreadPool& pool_;
  std::set<std::string, std::less<>> read_;  // names
};

/// The number after "blk.", if that is what `name` begins with.
std::optional<std::size_t> block_of(std::string_view name) {
  constexpr std::string_view prefix = "blk.";
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  std::size_t block = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), block);
  if (error != std::errc() || end == name.data() + name.size() || *end != '.') return std::nullopt;
  return block;
}

/// Throws unless the file has as many blocks as its metadata say: neither a block too few, nor one over.
void check_blocks(const GgufFile& file, const LlamaConfig& config) {
  std::set<std::size_t> blocks;
  for (const std::string_view name : file.tensor_names())
    if (const auto block = block_of(name)) blocks.insert(*block);
  std::size_t missing = 0;
  while (blocks.contains(missing)) ++missing;
  if (missing == config.layers && blocks.size() == config.layers) return;
  const std::string key = "metadata key '" + std::string(file.string_value("general.architecture")) +
                          ".block_count' is " + std::to_string(config.layers);
  if (missing < config.layers) fail_in(file, key, ", but the file has no tensor of block ", missing);
  fail_in(file, key, ", but the file has tensors of block ", *blocks.rbegin());
}

LlamaLayer load_layer(Loader& load, const LlamaConfig& c, std::size_t index) {
  const std::string prefix = "blk." + std::to_string(index) + ".";
  const std::size_t queries = c.query_heads * c.head_dim, keys = c.kv_heads * c.head_dim;
  LlamaLayer layer;
  layer.attention_norm = load.vector(prefix + "attn_norm.weight", c.embedding);
  layer.queries_keys_values = load.stacked({{prefix + "attn_q.weight", queries},
                                            {prefix + "attn_k.weight", keys},
                                            {prefix + "attn_v.weight", keys}},
                                           c.embedding);
  layer.qkv_bias = load.stacked_vector(
      {{prefix + "attn_q.bias", queries}, {prefix + "attn_k.bias", keys}, {prefix + "attn_v.bias", keys}});
  if (c.head_norms) {
    layer.query_norm = load.vector(prefix + "attn_q_norm.weight", c.head_dim);
    layer.key_norm = load.vector(prefix + "attn_k_norm.weight", c.head_dim);
  }
  layer.output_bias = load.optional_vector(prefix + "attn_output.bias", c.embedding);
  layer.attention_output = load.matrix(prefix + "attn_output.weight", c.embedding, queries);
  layer.feed_forward_norm = load.vector(prefix + "ffn_norm.weight", c.embedding);
  layer.gate = load.matrix(prefix + "ffn_gate.weight", c.feed_forward, c.embedding);
  layer.up = load.matrix(prefix + "ffn_up.weight", c.feed_forward, c.embedding);
  layer.down = load.matrix(prefix + "ffn_down.weight", c.embedding, c.feed_forward);
  return layer;
}

}  // namespace

LlamaWeights::LlamaWeights(const GgufFile& file, ThreadPool& pool) : config_(LlamaConfig::from(file)) {
  check_blocks(file, config_);
  Loader load(file, pool);
  embedding_ = load.matrix("token_embd.weight", config_.vocab_size, config_.embedding);
  output_norm_ = load.vector("output_norm.weight", config_.embedding);
  if (file.has_tensor("output.weight"))
    output_ = load.matrix("output.weight", config_.vocab_size, config_.embedding);
  for (std::size_t i = 0; i < config_.layers; ++i) layers_.push_back(load_layer(load, config_, i));
  load.refuse_unread();
}

}  // namespace smollm2
