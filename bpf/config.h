/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * config.h - constants set before the programs are loaded. The verifier knows
 * them, so branches that they rule out vanish.
 */
#ifndef DIRECTOR_CONFIG_H
#define DIRECTOR_CONFIG_H

#include "abi.h"

/* Go sets all of it (load.go). */
const volatile struct load_config config;

/* Enums reach BTF, and so Go, only as the type of some variable. */
const struct {
	enum limit limit;
	enum verdict verdict;
	enum conn_state conn_state;
	enum conn_tag conn_tag;
	enum conn_flag conn_flag;
	enum link link;
	enum splice_part splice_part;
	enum marking marking;
	enum defending defending;
	enum closed_ports closed_ports;
	enum prefix_says prefix_says;
	enum real_flag real_flag;
	enum stale_action stale_action;
	enum forward_method forward_method;
	enum tunnel_type tunnel_type;
	enum tunnel_flag tunnel_flag;
	enum plan_kind plan_kind;
	enum roster roster;
	enum service_flag service_flag;
	enum service_answer service_answer;
} abi_enums __attribute__((used));

#endif
