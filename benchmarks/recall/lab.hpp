// The model, and pots with engines that run against them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "document.hpp"
#include "infinipot/infinipot.hpp"
#include "job.hpp"
#include "key_channels.hpp"
#include "options.hpp"
#include "policies.hpp"
#include "prompt.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/pool_executor.hpp"
#include "smollm2/thread_pool.hpp"
#include "smollm2_text.hpp"
#include "streaming_tokenizer.hpp"

namespace recall_trials {

using infinipot::Token;
using Pot = infinipot::Pot<float>;
using Engine = smollm2::LlamaEngine<Pot>;

/// A question in tokens.
struct Asked {
  std::vector<Token> question;  ///< all that is fed after the text: answer header and prefix too
  std::vector<Token> plain;     ///< the same without the prefix
  std::vector<Token> answer;
};

class Lab {
 public:
  Lab(const std::string& model, std::size_t threads) : Lab(smollm2::GgufFile(model), threads) {}

  const reading::TextModel& text() const { return text_; }
  const smollm2::LlamaWeights& weights() const { return weights_; }
  smollm2::ThreadPool& threads() { return threads_; }
  smollm2::PoolExecutor executor() { return smollm2::PoolExecutor(threads_); }
  infinipot::Shape shape() const { return weights_.config().shape(); }
  const infinipot::KeyChannels& channels() const { return channels_; }

  /// As infinipot-read's, with its defaults.
  reading::Options options(const Job& job, const std::string& policy = "infinipot") const {
    reading::Options options;
    options.policy = policy;
    options.pot = job.pot;
    options.keep = job.keep;
    if (job.max_tokens > 0) options.max_tokens = job.max_tokens;
    reading::complete(options, {.name = {}, .model_help = {}});
    return options;
  }

  Asked asked(const Question& question) const {
    Asked asked;
    asked.question =
        question_tokens({.question = question.question, .answer_prefix = question.answer_prefix});
    asked.plain = question_tokens({.question = question.question});
    reading::encode_after(text_, question.answer, asked.answer);
    return asked;
  }

  /// What a text repeats itself after.
  infinipot::Reread reread(const reading::Options& options) const {
    std::vector<Token> instruction;
    reading::encode_after(text_, "\n\nRepeat the text above:\n\n", instruction);
    return infinipot::Reread({.instruction = instruction,
                              .block = options.block,
                              .layers = options.layers.value_or(reading::usual_layers("reread")),
                              .smoothing = {infinipot::Pooling::mean, options.kernel}});
  }

 private:
  Lab(const smollm2::GgufFile& file, std::size_t threads)
      : text_(file),
        threads_(threads),
        weights_(file, threads_),
        channels_(reading::key_channels(weights_, text_, threads_)) {}

  std::vector<Token> question_tokens(const reading::Turn& turn) const {
    std::vector<Token> tokens;
    reading::encode_after(text_, "\n\n" + turn.question, tokens);
    reading::append_answer_header(text_, turn, tokens);
    return tokens;
  }

  reading::Smollm2Text text_;
  smollm2::ThreadPool threads_;
  smollm2::LlamaWeights weights_;
  infinipot::KeyChannels channels_;
};

/// A pot and the engine that runs against it. Neither moves.
class Seat {
 public:
  Seat(Lab& lab, std::size_t capacity, std::size_t keep)
      : Seat(lab, Pot({.shape = lab.shape(),
                       .capacity = capacity,
                       .max_keep = std::min(keep, capacity - 1),
                       .granularity = infinipot::Granularity::shared,
                       .rope = lab.weights().config().rope(capacity)})) {}
  Seat(const Seat&) = delete;
  Seat& operator=(const Seat&) = delete;

  Seat fork() const { return {lab_, pot.fork()}; }

  Pot pot;
  Engine engine;

 private:
  // Catalysts may be all that was kept and a question.
  Seat(Lab& lab, Pot&& from)
      : pot(std::move(from)),
        engine(lab.weights(), pot, lab.threads(), std::max<std::size_t>(256, pot.max_keep() + 128)),
        lab_(lab) {}

  Lab& lab_;
};

inline infinipot::CcdSettings ccd_settings(const reading::Options& options) {
  return {.keep = options.keep, .sinks = options.sinks, .recent = options.recent, .chunk = options.chunk};
}

}  // namespace recall_trials
