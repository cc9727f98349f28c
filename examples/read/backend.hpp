// The seam between a reading program and its engine.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "infinipot/concepts.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/rope.hpp"
#include "options.hpp"
#include "text_model.hpp"

namespace reading {

/// A store and an engine that runs against it. Neither need be copyable or movable: they are made in place.
template <class M>
concept StoreWithEngine = requires(M& memory) {
  requires infinipot::Store<std::remove_reference_t<decltype(memory.store())>>;
  requires infinipot::ForwardPass<std::remove_reference_t<decltype(memory.engine())>>;
  { memory.store() } -> std::same_as<std::remove_reference_t<decltype(memory.store())>&>;
  { memory.engine() } -> std::same_as<std::remove_reference_t<decltype(memory.engine())>&>;
};

/// A loaded model. It must outlive all that it hands out.
///
///     const TextModel& text() const;
///     std::uint64_t bytes_per_token() const;  // keys and values of one token in all layers
///     infinipot::Rope rope() const;           // optional: the model's, where policies observe its queries
///     infinipot::KeyChannels key_channels();  // optional: what codes need to know about its keys
///     int converse(const Program&, const Options&);  // optional: options.conversations; the exit status
///     Memory memory(const Options& options, std::size_t batch, bool forks);
///
/// memory() makes an empty store of options.pot entries, of which a distillation keeps options.keep, with
/// options.granularity, and an engine whose calls have at most `batch` tokens. It is called once, and with
/// --recall-pot once more. `forks` says whether fork() will be called. Throws UsageError for options that the
/// engine cannot do.
///
///     Store& Memory::store();
///     Engine& Memory::engine();
///     std::uint64_t Memory::bytes() const;  // what the store takes
///     Fork Memory::fork();                  // with store() and engine(), of the very same types
///     Executor Memory::executor();          // optional: threads for the distillations
///
/// fork() makes a copy of all that the store holds at that time, and an engine that runs against the copy, so
/// that an answer can be measured without disturbing the conversation. One fork lives at a time; while it
/// does, nothing runs against the memory that it was made from.
template <class B>
concept Backend = requires(B& backend, const B& view, const Options& options, std::size_t batch, bool forks) {
  { view.text() } -> std::convertible_to<const TextModel&>;
  { view.bytes_per_token() } -> std::convertible_to<std::uint64_t>;
  requires StoreWithEngine<decltype(backend.memory(options, batch, forks))>;
  requires StoreWithEngine<decltype(backend.memory(options, batch, forks).fork())>;
  { backend.memory(options, batch, forks).bytes() } -> std::convertible_to<std::uint64_t>;
};

/// The store that a backend makes.
template <class B>
using StoreOf = std::remove_reference_t<
    decltype(std::declval<B&>().memory(std::declval<const Options&>(), std::size_t{}, false).store())>;

/// The rotation of a backend's model; none if it does not say.
template <class B>
infinipot::Rope rope_of(const B& backend) {
  if constexpr (requires { backend.rope(); })
    return backend.rope();
  else
    return {};
}

/// The threads that a memory lends to distillations; without any they run on the calling thread.
template <class M>
auto executor_of(M& memory) {
  if constexpr (requires { memory.executor(); })
    return memory.executor();
  else
    return infinipot::Serial{};
}

}  // namespace reading
