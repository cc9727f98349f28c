// infinipot: read an endless text in a fixed amount of KV memory. This header is the table of contents.
#pragma once

#include "infinipot/version.hpp"

// What is kept where
#include "infinipot/element.hpp"     // f32, f16, bf16
#include "infinipot/entries.hpp"     // position, token, NuC of every entry
#include "infinipot/entry_rows.hpp"  // keys and values read back
#include "infinipot/kv_layout.hpp"   // an engine's own memory as strided rows
#include "infinipot/layer_rows.hpp"  // layers that keep different numbers of entries
#include "infinipot/pot.hpp"         // the fixed-size pot
#include "infinipot/pot_file.hpp"    // pots saved and restored
#include "infinipot/pot_settings.hpp"
#include "infinipot/pyramid.hpp"        // budgets that fall with depth
#include "infinipot/quantize.hpp"       // those codes
#include "infinipot/quantized_pot.hpp"  // the same in 8-bit or 4-bit codes
#include "infinipot/selection.hpp"      // the entries that a distillation keeps
#include "infinipot/shape.hpp"          // layers, heads, head_dim; granularity

// The steps of a distillation, each usable alone
#include "infinipot/attention_form.hpp"   // scale, soft cap, bias
#include "infinipot/cap.hpp"              // CaP: attention of the catalyst's queries
#include "infinipot/compact.hpp"          // in-place gather
#include "infinipot/log_sum_exp.hpp"      // the denominator of a softmax, at once or in parts
#include "infinipot/mrope.hpp"            // positions of text, height and width
#include "infinipot/nuc.hpp"              // NuC: cross-entropy of a token
#include "infinipot/nuc_from_hidden.hpp"  // NuC without logits: fused with the output matrix
#include "infinipot/online_nuc.hpp"       // NuC of rows whose logits come in tiles
#include "infinipot/query_moments.hpp"    // mean and covariance of queries
#include "infinipot/reindex.hpp"          // CR-RoPE
#include "infinipot/rope.hpp"             // RoPE
#include "infinipot/rope_scaling.hpp"     // linear, NTK, YaRN, Llama-3, LongRoPE
#include "infinipot/selector.hpp"         // a policy's rules, lane by lane
#include "infinipot/smooth.hpp"           // pooling over neighbouring tokens
#include "infinipot/top_k.hpp"            // selection

// The seams, and the loop that drives them
#include "infinipot/ccd.hpp"       // Continual Context Distillation
#include "infinipot/concepts.hpp"  // forward pass, store
#include "infinipot/executor.hpp"  // threads
#include "infinipot/policy.hpp"    // policy
#include "infinipot/policy/expected_attention.hpp"
#include "infinipot/policy/h2o.hpp"
#include "infinipot/policy/infinipot.hpp"
#include "infinipot/policy/keydiff.hpp"
#include "infinipot/policy/knorm.hpp"
#include "infinipot/policy/reread.hpp"
#include "infinipot/policy/sirllm.hpp"
#include "infinipot/policy/snapkv.hpp"
#include "infinipot/policy/streaming_llm.hpp"
#include "infinipot/policy/temporal_redundancy.hpp"
#include "infinipot/policy/tova.hpp"
#include "infinipot/policy/truncation.hpp"
#include "infinipot/policy/value_norm.hpp"
#include "infinipot/score_view.hpp"  // what a policy sees
