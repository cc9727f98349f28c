// What makes runs of ccd_trial.hpp. Every inclusion that uses it compiles the loop once per policy.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "ccd_trial.hpp"

namespace trial {

template <class Reader>
class ReaderOf final : public AnyReader {
 public:
  explicit ReaderOf(Reader& reader) : reader_(reader) {}

  void start(std::span<const Token> tokens, Retention retention) override {
    reader_.start(tokens, retention);
  }
  void start_distil() override { reader_.start_distil(); }
  const infinipot::Pass* next() override { return reader_.next(); }
  void done() override { reader_.done(); }
  void failed() override { reader_.failed(); }
  void distil() override { reader_.distil(); }
  std::size_t generate(std::size_t most, const Sample& sample,
                       const std::function<bool(Token)>& accept) override {
    return reader_.generate(most, sample, accept);
  }
  std::span<const float> logits() const override { return reader_.logits(); }
  std::vector<std::byte> memory() const override { return reader_.memory(); }
  void resume(std::span<const std::byte> memory) override { reader_.resume(memory); }
  void resume() override { reader_.resume(); }
  void archive_to(infinipot::MemoryArchive& archive) override { reader_.archive_to(archive); }
  infinipot::Recalled recall(infinipot::MemoryArchive& archive, std::span<const Token> question,
                             const infinipot::RecallSettings& settings) override {
    return infinipot::recall(reader_, archive, question, settings);
  }
  void on_distillation(std::function<void(const infinipot::Distillation&)> observer) override {
    reader_.on_distillation(std::move(observer));
  }
  void on_choice(std::function<void(const infinipot::Choice&)> observer) override {
    reader_.on_choice(std::move(observer));
  }
  const infinipot::CcdStats& stats() const override { return reader_.stats(); }
  std::size_t limit() const override { return reader_.limit(); }
  bool uses_nuc() const override { return infinipot::uses_nuc(reader_.policy()); }

 private:
  void do_feed(std::span<const Token> tokens, Retention retention) override {
    reader_.feed(tokens, retention);
  }

  Reader& reader_;
};

template <class P, class T, toy::Shows shows>
class RunOf final : public AnyRun<T> {
  using Engine = toy::Engine<Pot<T>, shows>;
  using Reader = infinipot::Ccd<Engine, Pot<T>, P>;

 public:
  RunOf(const toy::Model& model, Pot<T> store, P policy, const infinipot::CcdSettings& settings)
      : AnyRun<T>(pot_, engine_, any_),
        model_(model),
        pot_(std::move(store)),
        engine_(model, pot_),
        reader_(engine_, pot_, std::move(policy), settings) {}

  std::unique_ptr<AnyRun<T>> fork() const override { return std::make_unique<RunOf>(*this, Fork{}); }

  void run_pass(const infinipot::Pass& pass) override { infinipot::run_pass(engine_, pass); }

  struct Fork {};
  RunOf(const RunOf& from, Fork /*tag*/)
      : AnyRun<T>(pot_, engine_, any_),
        model_(from.model_),
        pot_(from.pot_.fork()),
        engine_(model_, pot_),
        reader_(from.reader_.fork(engine_, pot_)) {}

 private:
  const toy::Model& model_;
  Pot<T> pot_;
  Engine engine_;
  Reader reader_;
  ReaderOf<Reader> any_{reader_};
};

template <class T, toy::Shows shows, class P>
std::unique_ptr<AnyRun<T>> run_of(const toy::Model& model, const CcdSpec& spec, KeyStorage storage,
                                  std::size_t chunk, P policy) {
  return std::make_unique<RunOf<P, T, shows>>(
      model, toy::make_pot<T>(model, spec.capacity, spec.keep, spec.granularity, storage), std::move(policy),
      settings_of(spec, chunk));
}

}  // namespace trial
