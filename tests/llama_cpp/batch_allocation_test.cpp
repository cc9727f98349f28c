// A batch's steps allocate nothing of this project's. llama.cpp itself does, so its functions stand here once
// more: what is allocated in them counts as theirs, but for what their callback allocates.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "allocation_counter.hpp"
#include "batch.hpp"
#include "scheduler.hpp"
#include "talks.hpp"
#include "tiny_models.hpp"

namespace {

std::size_t their_calls = 0;  // of operator new

/// Counts as theirs what is allocated while it lives.
class Theirs {
 public:
  Theirs() = default;
  Theirs(const Theirs&) = delete;
  Theirs& operator=(const Theirs&) = delete;
  ~Theirs() { their_calls += scope_.calls(); }

 private:
  allocation_counter::Scope scope_;
};

template <class F>
F* real(const char* name, F*) {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" std::int32_t llama_decode(llama_context* context, llama_batch batch) {
  static auto* const decode = real("llama_decode", &llama_decode);
  const Theirs theirs;
  return decode(context, batch);
}

extern "C" bool llama_memory_seq_rm(llama_memory_t memory, llama_seq_id sequence, llama_pos first,
                                    llama_pos end) {
  static auto* const remove = real("llama_memory_seq_rm", &llama_memory_seq_rm);
  const Theirs theirs;
  return remove(memory, sequence, first, end);
}

namespace llama_cpp {
namespace {

/// The tap's callback, whose allocations are not llama.cpp's.
struct Ours {
  ggml_backend_sched_eval_callback callback;
  void* data;

  static bool call(ggml_tensor* node, bool ask, void* self) {
    const Ours& ours = *static_cast<Ours*>(self);
    const allocation_counter::Scope scope;
    const bool wanted = ours.callback(node, ask, ours.data);
    their_calls -= scope.calls();
    return wanted;
  }
};

constexpr std::size_t steps = 100;

void expect_no_allocations(bool flash_attention) {
  keep_quiet();
  const smollm2::test::TinyLlama tiny = test::tiny_llama_of(2, 4, 2, 64);
  const test::TemporaryModel file(test::tiny_file(tiny));
  const llama_model_ptr model = load_model(file.path());
  const ContextSettings settings{.cells = 48,
                                 .sequences = 8,
                                 .batch = 64,
                                 .cache_type = GGML_TYPE_F16,
                                 .flash_attention = flash_attention};
  GraphTap tap;
  llama_context_params parameters = context_parameters(settings);
  tap.install(parameters);
  Ours ours{parameters.cb_eval, parameters.cb_eval_user_data};
  parameters.cb_eval = Ours::call;
  parameters.cb_eval_user_data = &ours;
  const llama_context_ptr context(llama_init_from_model(model.get(), parameters));
  ASSERT_NE(context, nullptr);

  Batch batch(tap, *context);
  std::vector<std::unique_ptr<CachePot>> pots;
  std::vector<std::unique_ptr<Conversation>> talks;
  std::vector<std::function<std::uint64_t()>> distillations;
  Scheduler scheduler(batch,
                      [](Conversation&, std::exception_ptr) { ADD_FAILURE() << "a conversation has ended"; });
  for (std::size_t i = 0; i < settings.sequences; ++i) {
    pots.push_back(std::make_unique<CachePot>(
        tap, *context, static_cast<llama_seq_id>(i),
        CachePotSettings{.capacity = 48, .max_keep = 24, .granularity = infinipot::Granularity::head}));
    const test::Script script{.number = i,
                              .text = test::Tokens(i % 3 == 0 ? 3000 : 100 + 10 * i, 1),
                              .question = {1, 2, 3, 4},
                              .settings = {.keep = 24, .sinks = 2, .chunk = 11}};
    test::with_policy(script, pots[i]->rope(), flash_attention, [&]<class P>(P policy) {
      auto talk =
          std::make_unique<Talk<P>>(batch, *pots[i], std::move(policy), script.settings,
                                    std::vector<TalkTurn<P>>{{.text = {{script.text}}, .most_tokens = 3000}},
                                    test::most_probable, [](infinipot::Token) { return true; });
      distillations.emplace_back([&reader = talk->reader()] { return reader.stats().distillations; });
      talks.push_back(std::move(talk));
    });
    scheduler.add(*talks[i]);
  }
  const auto fewest = [&] {
    std::uint64_t least = ~std::uint64_t{0};
    for (const auto& count : distillations) least = std::min(least, count());
    return least;
  };
  for (std::size_t i = 0; fewest() < 2; ++i) ASSERT_TRUE(i < 400 && scheduler.step());

  const std::uint64_t before = fewest();
  const std::size_t theirs = their_calls;
  const allocation_counter::Scope scope;
  for (std::size_t i = 0; i < steps; ++i) scheduler.step();
  const std::size_t all = scope.calls(), allocated = all - (their_calls - theirs);
  EXPECT_EQ(allocated, 0U);
  EXPECT_GT(all, 0U) << "llama.cpp's allocations are not seen, so ours would not be either";
  EXPECT_GT(fewest(), before);
}

TEST(BatchAllocations, NoneWithFlashAttention) { expect_no_allocations(true); }

TEST(BatchAllocations, NoneWithProbabilities) { expect_no_allocations(false); }

}  // namespace
}  // namespace llama_cpp
