// The loop with every policy, over pots of float and an engine that shows queries.
#include "ccd_trial.hpp"

#include <cstddef>
#include <memory>
#include <utility>

#include "ccd_trial_run.hpp"

namespace trial {

std::unique_ptr<AnyRun<float>> run_by_attention(const toy::Model& model, const CcdSpec& spec,
                                                KeyStorage storage, std::size_t chunk);

template <>
std::unique_ptr<AnyRun<float>> make_run(const toy::Model& model, const CcdSpec& spec, KeyStorage storage,
                                        std::size_t chunk, toy::Shows shows) {
  if (shows == toy::Shows::attention) return run_by_attention(model, spec, storage, chunk);
  std::unique_ptr<AnyRun<float>> run;
  with_policy(model, spec, [&]<class P>(P policy) {
    run = run_of<float, toy::Shows::queries>(model, spec, storage, chunk, std::move(policy));
  });
  return run;
}

}  // namespace trial
