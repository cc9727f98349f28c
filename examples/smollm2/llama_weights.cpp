#include "llama_weights.hpp"

#include <algorithm>
#include <sstream>
#include <string>

#include "dequantize.hpp"
#include "gguf_error.hpp"
#include "matrix.hpp"

namespace smollm2 {
namespace {

/// Reads tensors of the shapes that they must have.
class Loader {
 public:
  Loader(const GgufFile& file, ThreadPool& pool) : file_(file), pool_(pool) {}

  std::vector<float> vector(const std::string& name, std::size_t size) const {
    const GgufTensor& tensor = checked(name, 1, size);
    std::vector<float> numbers(size);
    dequantize(tensor.type, tensor.data, numbers);
    return numbers;
  }

  Linear matrix(const std::string& name, std::size_t outputs, std::size_t inputs) const {
    return stacked({{name, outputs}}, inputs);
  }

  struct Part {
    std::string name;
    std::size_t outputs;
  };

  /// Several matrices with the same inputs, one below the other.
  Linear stacked(const std::vector<Part>& parts, std::size_t inputs) const {
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

 private:
  const GgufTensor& checked(const std::string& name, std::size_t rows, std::size_t columns) const {
    const GgufTensor& tensor = file_.tensor(name);
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
      throw GgufError(file_.name() + ": tensor " + smollm2::quoted(name) + ": " + text);
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
};

LlamaLayer load_layer(const Loader& load, const LlamaConfig& c, std::size_t index) {
  const std::string prefix = "blk." + std::to_string(index) + ".";
  const std::size_t queries = c.query_heads * c.head_dim(), keys = c.kv_heads * c.head_dim();
  LlamaLayer layer;
  layer.attention_norm = load.vector(prefix + "attn_norm.weight", c.embedding);
  layer.queries_keys_values = load.stacked({{prefix + "attn_q.weight", queries},
                                            {prefix + "attn_k.weight", keys},
                                            {prefix + "attn_v.weight", keys}},
                                           c.embedding);
  layer.attention_output = load.matrix(prefix + "attn_output.weight", c.embedding, queries);
  layer.feed_forward_norm = load.vector(prefix + "ffn_norm.weight", c.embedding);
  layer.gate = load.matrix(prefix + "ffn_gate.weight", c.feed_forward, c.embedding);
  layer.up = load.matrix(prefix + "ffn_up.weight", c.feed_forward, c.embedding);
  layer.down = load.matrix(prefix + "ffn_down.weight", c.embedding, c.feed_forward);
  return layer;
}

}  // namespace

LlamaWeights::LlamaWeights(const GgufFile& file, ThreadPool& pool) : config_(LlamaConfig::from(file)) {
  const Loader load(file, pool);
  embedding_ = load.matrix("token_embd.weight", config_.vocab_size, config_.embedding);
  output_norm_ = load.vector("output_norm.weight", config_.embedding);
  if (file.has_tensor("output.weight"))
    output_ = load.matrix("output.weight", config_.vocab_size, config_.embedding);
  for (std::size_t i = 0; i < config_.layers; ++i) layers_.push_back(load_layer(load, config_, i));
}

}  // namespace smollm2
