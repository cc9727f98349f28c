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
    for (const Part& part : parts) outputs += checked(part.name, part.outputs, inputs).rows();
    Linear linear(outputs, inputs);
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

  /// Sets rows `first` .. of `linear`. Nothing here can throw once the scratch is there: the type is known,
  /// and the file has made sure of the data's size.
  void read(const GgufTensor& tensor, std::size_t first, Linear& linear) const {
    const auto rows = static_cast<std::size_t>(tensor.rows());
    const std::size_t bytes = tensor.data.size() / rows;
    Matrix scratch(pool_.size(), linear.inputs());
    const std::size_t tasks = (rows + rows_per_task - 1) / rows_per_task;
    pool_.parallel_for(tasks, [&](std::size_t task, std::size_t thread) {
      const std::span<float> numbers(scratch.row(thread), linear.inputs());
      for (std::size_t row = task * rows_per_task; row < std::min(rows, (task + 1) * rows_per_task); ++row) {
        dequantize(tensor.type, tensor.data.subspan(row * bytes, bytes), numbers);
        linear.set_row(first + row, numbers);
      }
    });
  }

  static constexpr std::size_t rows_per_task = panel_width;  // so that threads write apart

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
