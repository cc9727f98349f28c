// The loop over pots of 16 bits and with an engine that shows attention.
#include <cstddef>
#include <memory>
#include <utility>

#include "ccd_trial.hpp"
#include "ccd_trial_run.hpp"

namespace trial {

std::unique_ptr<AnyRun<float>> run_by_attention(const toy::Model& model, const CcdSpec& spec,
                                                KeyStorage storage, std::size_t chunk) {
  std::unique_ptr<AnyRun<float>> run;
  with_policy(model, spec, [&]<class P>(P policy) {
    if constexpr (!infinipot::ObservesQueries<P>)
      run = run_of<float, toy::Shows::attention>(model, spec, storage, chunk, std::move(policy));
  });
  return run;
}

/// Of each way to look at a store one policy will do: the element type is nothing to the others.
template <class T>
std::unique_ptr<AnyRun<T>> run_of_16_bits(const toy::Model& model, const CcdSpec& spec, KeyStorage storage,
                                          std::size_t chunk) {
  std::unique_ptr<AnyRun<T>> run;
  with_way_to_look(model, spec, [&]<class P>(const P& policy) {
    run = run_of<T, toy::Shows::queries>(model, spec, storage, chunk, policy);
  });
  return run;
}

template <>
std::unique_ptr<AnyRun<infinipot::f16>> make_run(const toy::Model& model, const CcdSpec& spec,
                                                 KeyStorage storage, std::size_t chunk,
                                                 toy::Shows /*shows*/) {
  return run_of_16_bits<infinipot::f16>(model, spec, storage, chunk);
}

template <>
std::unique_ptr<AnyRun<infinipot::bf16>> make_run(const toy::Model& model, const CcdSpec& spec,
                                                  KeyStorage storage, std::size_t chunk,
                                                  toy::Shows /*shows*/) {
  return run_of_16_bits<infinipot::bf16>(model, spec, storage, chunk);
}

}  // namespace trial
