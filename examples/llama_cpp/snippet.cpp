// The README's use of the adapter in a program of your own. It is compiled, not run.
#include <llama-cpp.h>
#include <llama.h>

#include <functional>
#include <span>
#include <vector>

#include "cache_pot.hpp"
#include "engine.hpp"
#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"

using Sample = std::function<infinipot::Token(std::span<const float> logits)>;
using Print = std::function<bool(infinipot::Token token)>;

// [readme]
void answer(llama_model* model, llama_context_params params, std::span<const infinipot::Token> text,
            const std::vector<infinipot::Token>& question, const Sample& pick, const Print& show) {
  llama_cpp::GraphTap tap;
  tap.install(params);  // sets cb_eval, before the context is made
  const llama_context_ptr context(llama_init_from_model(model, params));  // n_ctx: cells of the pot
  llama_cpp::CachePot pot(tap, *context, /*sequence=*/0, {.capacity = 2048});
  llama_cpp::Engine engine(tap, pot);
  infinipot::Ccd reader(engine, pot, infinipot::recommended_settings(question));
  reader.feed(text);  // of any length
  reader.feed(question);
  reader.generate(64, pick, show);  // pick(logits): a token; show(token): whether to go on
}
// [readme]
