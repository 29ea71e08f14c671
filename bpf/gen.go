// SPDX-License-Identifier: Apache-2.0

package bpf

// The objects are little-endian only: amd64 and arm64. make generate runs this
// with the compiler that CI has, so that no difference remains.

//go:generate go tool bpf2go -go-package bpf -no-strip=false -cc clang -target bpfel -cflags "-O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu" -type conn4 -type conn6 -type conn -type conn_key -type clock_reading -type real -type source -type source_pool -type probe -type real_counts -type real_stats -type counters -type service -type service_bucket -type service_key -type plan -type plan_chunk -type answered_key -type answered_mac -type roster -type destination_key -type destination -type tunnel_type -type tunnel_flag -type tunnel -type hash_key -type limit -type verdict -type conn_state -type conn_tag -type conn_flag -type link -type marking -type defending -type closed_ports -type closed_key -type prefix_says -type prefix_bucket -type prefix_tree -type prefix_set -type guard -type budget_bucket -type sample -type sample_ring -type mark_bucket -type mark_shape -type mark_set -type mark_rule -type mark_question -type real_flag -type stale_action -type forward_method -type plan_kind -type service_flag -type service_answer -type splice_part -type trace_filter -type trace_head -output-stem director director director.bpf.c
//go:generate go tool bpf2go -go-package bpf -cc clang -target bpfel -cflags "-O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu" -output-stem bench bench bench.bpf.c
