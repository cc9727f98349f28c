// A server's loop: conversations that share a context, run in batches on one thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "batch.hpp"
#include "cache_pot.hpp"
#include "infinipot/infinipot.hpp"

namespace llama_cpp {

/// What a scheduler runs: a reader of any policy with its pot, and what it is to read and to answer.
class Conversation {
 public:
  virtual ~Conversation() = default;
  virtual CachePot& pot() noexcept = 0;

  /// As infinipot::Ccd has them; null once all was read and answered.
  virtual const infinipot::Pass* next() = 0;
  virtual void done() = 0;
  virtual void failed() noexcept = 0;

 protected:
  Conversation() = default;
  Conversation(const Conversation&) = default;
  Conversation& operator=(const Conversation&) = default;
};

/// Tokens to be read, and whether they may be dropped.
struct Piece {
  std::vector<infinipot::Token> tokens;
  infinipot::Retention retention = infinipot::Retention::evictable;
};

/// A text, of any length, and then an answer of at most so many tokens.
template <infinipot::Policy P>
struct TalkTurn {
  std::vector<Piece> text;
  std::size_t most_tokens = 0;
  std::optional<P> policy = {};  ///< decides from here on (Ccd::set_policy())
};

/// A list of turns. One that has failed goes on where it was when its next() is called again.
template <infinipot::Policy P>
class Talk final : public Conversation {
 public:
  using Sample = std::function<infinipot::Token(std::span<const float> logits)>;
  using Accept =
      std::function<bool(infinipot::Token)>;  ///< whether the answer goes on; the token is then read

  /// Throws what the reader's constructor throws. Batch and pot must outlive the object.
  Talk(Batch& batch, CachePot& pot, P policy, const infinipot::CcdSettings& settings,
       std::vector<TalkTurn<P>> turns, Sample sample, Accept accept)
      : pot_(pot),
        reader_(batch, pot, std::move(policy), settings),
        turns_(std::move(turns)),
        sample_(std::move(sample)),
        accept_(std::move(accept)) {}
  Talk(const Talk&) = delete;
  Talk& operator=(const Talk&) = delete;

  CachePot& pot() noexcept override { return pot_; }
  infinipot::Ccd<Batch, CachePot, P>& reader() noexcept { return reader_; }

  /// Called with the number of each turn, from 0 on, once it was answered.
  void on_turn_end(std::function<void(std::size_t turn)> ended) { turn_ended_ = std::move(ended); }

  const infinipot::Pass* next() override {
    for (;;) {
      if (const infinipot::Pass* const pass = reader_.next()) return pass;
      reading_ = unread();
      if (reading_.empty() && !take_up()) return nullptr;
      if (reading_.empty()) continue;
      before_ = reader_.stats().tokens_read;
      reader_.start(reading_, retention_);
    }
  }
  void done() override { reader_.done(); }
  void failed() noexcept override { reader_.failed(); }

 private:
  /// Of what was started.
  std::span<const infinipot::Token> unread() const noexcept {
    return reading_.empty() ? reading_ : reading_.subspan(reader_.stats().tokens_read - before_);
  }

  /// The next piece, or a token of the answer; or nothing but a turn's end. False at the end of all.
  bool take_up() {
    if (turn_ == turns_.size()) return false;
    TalkTurn<P>& turn = turns_[turn_];
    if (turn.policy) reader_.set_policy(*turn.policy);
    turn.policy.reset();
    if (piece_ < turn.text.size()) {
      const Piece& piece = turn.text[piece_++];
      reading_ = piece.tokens;
      retention_ = piece.retention;
    } else if (said_ < turn.most_tokens && accepted(sample_(reader_.logits()))) {
      ++said_;
      reading_ = {&token_, 1};
      retention_ = infinipot::Retention::evictable;
    } else {
      if (turn_ended_) turn_ended_(turn_);
      ++turn_;
      piece_ = said_ = 0;
    }
    return true;
  }

  bool accepted(infinipot::Token token) {
    token_ = token;
    return accept_(token);
  }

  CachePot& pot_;
  infinipot::Ccd<Batch, CachePot, P> reader_;
  std::vector<TalkTurn<P>> turns_;
  Sample sample_;
  Accept accept_;
  std::function<void(std::size_t)> turn_ended_;
  std::size_t turn_ = 0, piece_ = 0, said_ = 0;  // the next ones
  infinipot::Token token_ = 0;                   // said last
  std::span<const infinipot::Token> reading_;    // what was started
  infinipot::Retention retention_ = infinipot::Retention::evictable;
  std::uint64_t before_ = 0;  // tokens read when it was
};

/// Asks every conversation for its next pass, runs as many as fit in a batch, and hands back what came of
/// them, until none has anything left. What goes wrong in one ends that one alone; it then is as it was
/// before its last pass.
class Scheduler {
 public:
  /// A conversation has ended, by an error or, if that is null, because nothing is left of it. May add()
  /// others; must not throw.
  using Ended = std::function<void(Conversation&, std::exception_ptr)>;

  Scheduler(Batch& batch, Ended ended) : batch_(batch), ended_(std::move(ended)), slots_(batch.sequences()) {}
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;
  ~Scheduler() {
    for (const Slot& slot : slots_)
      if (slot.conversation != nullptr) cancel(*slot.conversation);
  }

  /// Must stay until it has ended or is cancelled. Throws std::invalid_argument if its sequence has one
  /// already.
  void add(Conversation& conversation) {
    Slot& slot = slot_of(conversation.pot().sequence());
    if (slot.conversation != nullptr)
      throw std::invalid_argument("llama.cpp scheduler: the sequence has a conversation already");
    slot = {.conversation = &conversation};
  }

  /// Ends it without a word. Not while its own next(), done() or failed() runs: those throw instead.
  void cancel(Conversation& conversation) noexcept {
    Slot& slot = slot_of(conversation.pot().sequence());
    if (slot.conversation != &conversation) return;
    batch_.remove(conversation.pot().sequence());
    conversation.failed();
    slot = {};
  }

  /// One llama_decode(). Returns whether there is more to do.
  bool step() {
    for (Slot& slot : slots_)
      if (slot.conversation != nullptr && !slot.waits) ask(slot);
    for (const Outcome& outcome : batch_.decode()) take(outcome);
    return std::ranges::any_of(slots_, [](const Slot& slot) { return slot.conversation != nullptr; });
  }

  void run() {
    while (step()) continue;
  }

 private:
  struct Slot {
    Conversation* conversation = nullptr;
    bool waits = false;  // for its pass, which the batch has
  };

  Slot& slot_of(llama_seq_id sequence) noexcept { return slots_[static_cast<std::size_t>(sequence)]; }

  void ask(Slot& slot) {
    guarded(slot, [&](Conversation& conversation) {
      const infinipot::Pass* const pass = conversation.next();
      if (pass == nullptr) return end(slot, nullptr);
      batch_.add(conversation.pot(), *pass);
      slot.waits = true;
    });
  }

  void take(const Outcome& outcome) {
    Slot& slot = slot_of(outcome.sequence);
    slot.waits = false;
    guarded(slot, [&](Conversation& conversation) {
      if (!outcome.error.empty()) throw std::runtime_error(outcome.error);
      conversation.done();
    });
  }

  template <class F>
  void guarded(Slot& slot, const F& function) {
    Conversation& conversation = *slot.conversation;
    try {
      function(conversation);
    } catch (...) {
      conversation.failed();
      end(slot, std::current_exception());
    }
  }

  void end(Slot& slot, std::exception_ptr error) {
    Conversation& conversation = *std::exchange(slot.conversation, nullptr);
    ended_(conversation, std::move(error));
  }

  Batch& batch_;
  Ended ended_;
  std::vector<Slot> slots_;  // (sequences)
};

}  // namespace llama_cpp
