/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * abi.h - everything the BPF programs and Go agree on.
 *
 * bpf2go turns these types into Go, so that there is one definition. Times are
 * jiffies unless the name says otherwise; addresses and ports are in network
 * byte order where the type is __be*, or where the field is a byte array.
 *
 * Rows outlive the version that wrote them, and are read by another by the names
 * of their fields (layout.go). A field that comes to mean something else gets
 * another name, 0 in a new one means what was so without it, and what an enum's
 * name stands for stays its number, but for verdicts.
 */
#ifndef DIRECTOR_ABI_H
#define DIRECTOR_ABI_H

#include <linux/types.h>

enum limit {
	CONN_WAYS = 8,		 /* slots of one set of the connection table */
	SERVICE_WAYS = 4,	 /* keys of one bucket of the service table */
	PLAN_CHUNK = 16,	 /* plan slots of one array element: a cache line */
	PICK_TRIES = 32,	 /* plan slots tried for one new connection */
	DESTINATION_REALS = 16,	 /* that lblcr remembers of one destination */
	WEIGHT_WHOLE = 256,	 /* parts of a weight, see real.held */
	FILTER_WORDS = 1 << 14,	 /* 64-bit words of the service filter: 128 KiB */
	TIMEOUTS = 64,		 /* one for each connection state */
	TX_PORTS = 64,		 /* interfaces one director transmits on */
	FRAGMENTS = 1 << 14,	 /* fragmented packets whose first fragment is remembered */
	NO_REAL = 0xffffffff,	 /* an empty plan slot */
	MARK_SHAPES = 1024,	 /* of marking rules, for each family */
	MARK_WAYS = 4,		 /* marking rules of one bucket */
	MARK_WORDS = 6,		 /* 64-bit words of what a marking rule looks at */
	NO_RULE = 0xffffffff,
	ADDRESSES = 1 << 13,	 /* places that ARP and ND are answered for: address, interface and VLAN */
	PACKETS_COUNTED = 10,	 /* of a connection: more need not be told apart */
	TUNNEL_HEAD_MAX = 52,	 /* IPv6, UDP and GUE */
	SOURCES = 256,		 /* of full-NAT; number 0 is none */
	POOLS = 256,		 /* of them; number 0 is none */
	PORT_TRIES = 32,	 /* local ports tried for one new connection */
	PREFIX_WAYS = 8,	 /* entries of one bucket of the prefix table: a cache line */
	PREFIX_LISTS = 1024,	 /* lists of prefixes; number 0 is none */
	PREFIX_LENGTHS = 63,	 /* different ones that a list may have in one family */
	PREFIX_DEPTH = 7,	 /* of the tree of lengths */
	BUDGET_WAYS = 4,
	BUDGET_BUCKETS = 1 << 15,
	SAMPLES = 256,		 /* that each CPU keeps */
	PROBES = 1 << 13,	 /* health checks that go as a client's, and whose answers are still known */
	PROBE_PORT_FIRST = 61000, /* up to 65535: above those that Linux gives to sockets that ask for none */
	CALL_ID_MAX = 255,	 /* characters of a SIP Call-ID, as in IPVS (IP_VS_PEDATA_MAXLEN) */
	CALL_TEXT = 32,		 /* bytes for those that are kept to be shown */
	TRACES = 8,		 /* at a time */
	TRACE_BYTES = 4096,	 /* of a frame that a trace may want */
	TRACE_RING = 1 << 22,	 /* bytes for packets that were traced and not read yet */
};

/*
 * Why a packet left. Every packet is counted under exactly one verdict; the
 * names are those that users see, so a verdict is renamed nowhere else.
 */
enum verdict {
	/* to the stack, untouched */
	PASS_NOT_IP,		/* LLDP, ARP about other addresses, ... */
	PASS_OTHER_HOST,	/* broadcast or multicast at the link level */
	PASS_NO_SERVICE,	/* IP, but no virtual service's */
	PASS_MALFORMED,		/* no whole IP header: the stack will drop and count it */
	PASS_FRAGMENT,		/* a later fragment whose first was not seen */
	PASS_ICMP,		/* ICMP that concerns no connection */
	PASS_NO_CONNECTION,	/* a service's, but neither known nor schedulable */
	PASS_ANSWER,		/* no usable real server, and the service says pass */
	PASS_LOCAL,		/* the director is the real server */
	/* transmitted */
	TX_FORWARD,		/* known connection */
	TX_REPLY,		/* nat: the server's packet of one, as the service's */
	TX_NEW,			/* new connection, stored */
	TX_UNTRACKED,		/* new connection, no room to store it */
	TX_ONE_PACKET,		/* one-packet scheduling */
	TX_ICMP,		/* ICMP error about a connection, to its real server */
	TX_ECHO,		/* echo answered for a virtual address */
	TX_ARP,			/* ARP request answered for a virtual address */
	TX_NEIGHBOR,		/* IPv6: neighbour solicitation answered for one */
	TX_UNREACHABLE,		/* no usable real server: ICMP port unreachable */
	TX_RESET,		/* no usable real server, or it is gone: TCP RST */
	TX_TIME_EXCEEDED,	/* TTL or hop limit ended here */
	TX_TOO_BIG,		/* does not fit the way to the real server */
	TX_PROBE,		/* a health check that goes as a client's, or its answer */
	TX_COOKIE,		/* SYN answered with a cookie: nothing is stored */
	/* dropped */
	DROP_MALFORMED,		/* for a service, and no valid packet */
	DROP_NO_REAL,		/* no usable real server, and the service says drop */
	DROP_REAL_GONE,		/* the connection's real server was removed */
	DROP_NO_ROOM,		/* nat: the connection cannot be stored, and its replies would not be known */
	DROP_NO_CALL_ID,	/* persistence by SIP calls, and no Call-ID to be found */
	DROP_NO_PORT,		/* fullnat: none of the local ports that were tried is free */
	DROP_NO_NEXT_HOP,	/* the real server's link-layer address is unknown */
	DROP_TTL,		/* TTL ended, and no answer may be sent */
	DROP_TOO_BIG,		/* does not fit, and no answer may be sent */
	DROP_UNTAKEN,		/* marked by the firewall, but no service takes it */
	DROP_RATE,		/* an answer was due, but too many were sent */
	DROP_PACKET,		/* a new connection, by the strategy drop_packet */
	DROP_DENIED,		/* a new connection from a denied prefix */
	DROP_BUDGET,		/* a new connection from a prefix that has begun too many */
	DROP_CEILING,		/* a new connection to a service that has got too many */
	DROP_CLOSED,		/* for a port of a virtual address that no service has */
	DROP_COOKIE,		/* segment of no connection, with no valid cookie */
	DROP_EARLY,		/* of a connection whose real server has not answered yet */
	DROP_ERROR,		/* a helper failed: no headroom, no such interface */
	VERDICTS,
	UNDECIDED = VERDICTS,
};

/* Connection states. Numbers 0 to 10 are IPVS's, as on its sync wire. */
enum conn_state {
	TCP_NONE,
	TCP_ESTABLISHED,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_SYNACK,
	UDP_NORMAL = 16,
	SCTP_NONE = 32,
	SCTP_INIT1,
	SCTP_INIT,
	SCTP_COOKIE_SENT,
	SCTP_COOKIE_REPLIED,
	SCTP_COOKIE_WAIT,
	SCTP_COOKIE,
	SCTP_COOKIE_ECHOED,
	SCTP_ESTABLISHED,
	SCTP_SHUTDOWN_SENT,
	SCTP_SHUTDOWN_RECEIVED,
	SCTP_SHUTDOWN_ACK_SENT,
	SCTP_REJECTED,
	SCTP_CLOSED,
	REPLY_NEW = 48,		/* no connection but the way back of one (nat), which is not established yet */
	REPLY_PROVEN,
	TEMPLATE_NONE,		/* persistence: no connection either. None of those it controls was established */
	TEMPLATE_ASSURED,
	CONN_DEAD = 0x80,	/* a bit beside the state: being freed, nothing changes the word any more */
};

/* Where the parts of conn.link begin. */
enum link {
	LINK_VERSION = 32,	/* after the number of the slot, see struct place */
	LINK_V6 = 48,		/* of a controlled connection: its template lies in the IPv6 table */
	LINK_VLAN = 48,		/* of a way back */
	TEMPLATE_CONTROLS = 24,	/* of a template: connections that it controls, after its timeout in seconds */
	TEMPLATE_VERSION = 48,	/* of its own tag: while it is that, the rest may be changed by compare-and-swap */
	TEMPLATE_FIELD = 0xffffff,
	TEMPLATE_HELD = 60,	/* seconds: its timeout once it has fired with connections left (IPVS) */
};

/* The low byte of conn.tag. */
enum conn_tag {
	TAG_FREE = 0,
	TAG_BUSY = 1,		/* claimed, not yet published, or being freed */
	TAG_USED = 2,
	TAG_MASK = 3,
	TAG_SECOND = 4,		/* stored in the second set of its key */
	TAG_OVERFLOW = 8,	/* stored in the overflow map */
};

/* Flags of a connection: bits 8 to 23 of conn.word. */
enum conn_flag {
	CONN_NO_OUTPUT = 1 << 8,  /* no packet of the server's was seen (IPVS 0x80) */
	CONN_UNPROVEN = 1 << 9,	  /* made from a bare ACK: counts as embryonic */
	CONN_CONTROLLED = 1 << 10, /* made by a template: link leads to it */
	CONN_SPLICED = 1 << 14,	/* its handshake was the director's: there is a splice (splice.h) */
};

/*
 * A connection, the part that IPv4 and IPv6 share. conn4 is one cache line.
 * home_lock and home_moved belong to the place in the table, not to the entry
 * that is stored there: they speak of the keys whose first place this is.
 */
struct conn {
	__u64 tag;	  /* fingerprint << 32 | version << 16 | protocol << 8 | enum conn_tag */
	__u32 word;	  /* version << 24 | flags | state: changed by compare-and-swap only, until dead */
	__u32 ports;	  /* source, destination: __be16 each, as on the wire */
	__u32 real;	  /* id of the real server */
	__u32 generation; /* of the real server, when the connection was made */
	__u32 last_use;	  /* low 32 bits of jiffies */
	__u8 packets;	  /* the client's, counted up to PACKETS_COUNTED */
	__u8 source;	  /* full-NAT: number of the local address, 0: not by full-NAT */
	__be16 port;	  /* and the local port */
	__u32 home_lock;  /* odd: a key of this place is being stored */
	__u32 home_moved; /* where other keys of this place are: ways of the set as bits; number in the second set << 8, in overflow << 16 */
	__u64 link;	  /* to another entry, its place and the version of its tag: a controlled connection's template, a
			   * way back's connection. Of a template: what it controls. See enum link */
	__u8 peer[6];	  /* nat: where the client's frames come from; of a way back: their destination */
	__u16 ingress;	  /* interface the client's packets come in by */
};

struct conn4 {
	struct conn c;
	__be32 saddr;
	__be32 daddr;
};

struct conn6 {
	struct conn c;
	__u8 saddr[16];
	__u8 daddr[16];
	__u64 more;	   /* of a connection with CONN_SPLICED: see enum splice_part; of a template of a SIP call,
			    * for either family (IPv4 addresses are mapped then): a hash of the Call-ID, which the last 8 bytes of
			    * saddr are XORed with */
	__u8 text[CALL_TEXT]; /* the Call-ID, 0 behind it; the last byte: 1 if it is longer, and cut off */
};

struct conn4_set {
	struct conn4 way[CONN_WAYS];
};

struct conn6_set {
	struct conn6 way[CONN_WAYS];
};

/* Key of the overflow map, for both families; IPv4 addresses are mapped. */
struct conn_key {
	__u8 saddr[16];
	__u8 daddr[16];
	__u32 ports;
	__u32 protocol;
};

/* A fragmented packet, and what its first fragment said. IPv4 addresses stand in addr[0]. */
struct fragment_key {
	__u64 addr[4];
	__u32 id;
	__u32 protocol;
};

/* Where the director answers ARP or neighbour solicitations for an address itself, and with what. */
struct answered_key {
	__u8 addr[16];	    /* IPv4 is mapped */
	__u32 ifindex;	    /* that the question comes in by */
	__be16 vlan[2];	    /* VLAN ids, outermost first; 0: no tag */
};

struct answered_mac {
	__u8 mac[6];
	__u16 reserved;
};

/* What a health check, noted under the key of its answers (struct conn_key), had asked. */
struct probe {
	__u64 addr[2];	    /* IPv4 is mapped */
	__be16 port;
	__u8 peer[6];	    /* where its frames come from */
};

/* Answers that one CPU has sent, for their limit. */
struct answer_count {
	__u32 window; /* jiffies / window length */
	__u32 sent;
};

/* Real server flags. */
enum real_flag {
	REAL_USABLE = 1,	/* may get new connections */
	REAL_NEXT_HOP = 2,	/* link-layer addresses are valid */
	REAL_OVERLOADED = 4,	/* at its upper threshold; set and cleared by both sides */
	REAL_REMOVED = 8,	/* only its connections live on; its counters are in the service's */
	REAL_LOCAL = 16,	/* it is the director itself: packets go to the stack */
	REAL_DOWN = 32,		/* dead, as health checks say: no template leads there */
};

/* What happens to packets of connections whose generation is not the real server's. */
enum stale_action {
	STALE_RESCHEDULE,
	STALE_DROP,
	STALE_RESET,
};

enum forward_method {
	METHOD_NAT,
	METHOD_LOCAL,
	METHOD_TUN,
	METHOD_DR,
	METHOD_FULLNAT,
};

struct counters {
	__u64 conns;
	__u64 in_packets;
	__u64 in_bytes;	    /* IP length */
	__u64 out_packets;
	__u64 out_bytes;
};

enum tunnel_type {
	TUNNEL_IPIP,
	TUNNEL_GUE,		/* UDP and four bytes (draft-ietf-intarea-gue, variant 0) */
	TUNNEL_GRE,		/* RFC 2784 */
};

enum tunnel_flag {
	TUNNEL_IPV6 = 1,	/* the outer header's family */
	TUNNEL_CHECKSUM = 2,	/* UDP's or GRE's over all that is inside */
};

/*
 * What packets to a real server by tun get in front. Userspace writes the headers
 * with all that is the same for every packet; the rest is 0 in them.
 */
struct tunnel {
	__u8 type;	    /* enum tunnel_type */
	__u8 flags;	    /* enum tunnel_flag */
	__u8 size;	    /* bytes of head */
	__u8 reserved;
	__u32 learned;	    /* low 32 bits of jiffies when an ICMP error lowered real.mtu; 0: none has */
	__u8 head[TUNNEL_HEAD_MAX];
	__u32 reserved2;
};

/* A real server as the packet path needs it: the first line is all that dr touches, the third is tun's. */
struct real {
	__u32 generation;
	__u32 flags;	    /* enum real_flag: both sides change them, by atomic and, or */
	__u8 method;	    /* enum forward_method */
	__u8 stale;	    /* enum stale_action */
	__u8 vlans;	    /* tags on the way out, 0 to 2 */
	__u8 held;	    /* parts of the weight, of WEIGHT_WHOLE, that a slow start holds back */
	__u8 mac[12];	    /* destination, source: the head of the frame that leaves */
	__be16 vlan[2];	    /* TCI, outermost first */
	__u32 ifindex;	    /* 0: no next hop */
	__u16 tx_port;	    /* index in the tx_ports map */
	__u16 mtu;	    /* bytes of IP that fit the way out, less what a tunnel adds */
	__u32 service;
	__u32 upper;	    /* threshold, connections; 0: none */
	__u32 lower;
	__be16 port;	    /* 0: the packet's */
	__u16 weight;	    /* for lblc, lblcr and a restarted daemon: plans say the rest */
	__be16 tpid[2];	    /* EtherTypes of the tags */
	__u32 tenant;	    /* counts up when another real server gets the row */
	__u32 reserved2;
	__u8 addr[16];	    /* IPv4 is mapped */
	struct counters retired; /* removed: what its service has taken over of its traffic */
	__be16 to_port;	    /* what nat makes of a request's port; 0: leaves it */
	__be16 if_port;	    /* only of this one; 0: of every one */
	__u8 pool;	    /* of sources, for full-NAT; 0: none */
	__u8 reserved3[3];
	struct tunnel tunnel;
};

/* An address of the director's own that requests by full-NAT come from. */
struct source {
	__u8 addr[16];	    /* IPv4 is mapped */
};

/* The sources that new connections may have: their numbers, filled up by repetition. */
struct source_pool {
	__u8 source[SOURCES];
};

/* Connections of a real server. One line, written by every CPU when one begins, ends or changes. */
struct real_counts {
	__u64 conns;	    /* active + (inactive << 32): one atomic add moves a connection between them */
	__u32 templates;
	__u32 refused;	    /* picks that found it unusable */
	__u64 reserved[6];
};

/* Traffic of one real server on one CPU. Only that CPU writes. */
struct real_stats {
	struct counters n;
	__u64 reserved[3];
};

enum plan_kind {
	PLAN_SEQUENCE,
	PLAN_DH,
	PLAN_SH,
	PLAN_MH,
	PLAN_FLOW,	    /* by the keyed flow hash: floods, untracked flows */
	PLAN_LBLC,	    /* a sequence for destinations that are not remembered; */
	PLAN_LBLCR,	    /* see enum roster */
};

/* A plan lies in the plans map from slot base on; base is a multiple of PLAN_CHUNK. */
struct plan {
	__u32 base;
	__u32 length;	    /* slots; 0: no usable real server */
	__u32 loop;	    /* after the end a sequence goes on here */
	__u32 kind;
};

/* The slots before the base of a plan of lblc or lblcr: what these know of their service besides. */
enum roster {
	ROSTER_EXPIRATION,  /* jiffies after which a set that did not change shrinks (lblcr) */
	ROSTER_COUNT,	    /* real servers that follow: those with the most to spare when the plan was made */
	ROSTER_FIRST,
	ROSTER_SLOTS = 2 * PLAN_CHUNK,
};

/* A destination address of a service, for lblc and lblcr. IPv4 is mapped. */
struct destination_key {
	__u8 addr[16];
	__u32 service;
	__u32 reserved;
};

/*
 * The real servers that a destination stays with, the last added last; lblc has
 * one. Each is a real server's id and, above it, the row's tenant: if the row
 * has another one, it is gone.
 */
struct destination {
	__u32 last_use;	    /* low 32 bits of jiffies */
	__u32 changed;	    /* when the set was changed, likewise */
	__u32 busy;	    /* 1: a packet changes the set; others leave that to their successors */
	__u32 reals;
	__u64 real[DESTINATION_REALS];
};

enum service_flag {
	SERVICE_SLOPPY = 1,	/* any segment but RST is scheduled (sloppy_tcp, sloppy_sctp) */
	SERVICE_ONE_PACKET = 2,
	SERVICE_REMOVED = 4,	/* only its connections live on */
	SERVICE_REUSE = 8,	/* conn_reuse_mode 1: a SYN on a closed connection is scheduled anew */
	SERVICE_REUSE_FIN = 128, /* conn_reuse_mode 2: also on one whose client has closed, replies unseen */
	SERVICE_EXPIRE_NODEST = 16, /* a SYN on a connection of a quiesced real server is scheduled anew */
	SERVICE_HASH_PORT = 32,	/* sh-port, mh-port */
	SERVICE_FALLBACK = 64,	/* sh-fallback, mh-fallback */
	SERVICE_EXPIRE_QUIESCENT = 256, /* templates of a quiesced real server are worth nothing */
	SERVICE_KEEP_DOWN = 512, /* those of one that cannot be reached are worth as much as ever */
	SERVICE_SORRY = 1024,	/* another one's sorry servers: no packet finds it by a key */
	SERVICE_SIP = 4096,	/* persistence goes by the Call-ID, too */
	SERVICE_NO_QUORUM = 2048, /* new connections are the sorry servers', if one can be reached */
	SERVICE_COOKIES = 1 << 20, /* SYNs are answered with cookies; */
	SERVICE_PROOFS = 1 << 21, /* ACKs may bring one back. All its real servers are by nat or fullnat */
};

/* What a packet gets that finds no usable real server. */
enum service_answer {
	ANSWER_UNREACHABLE,
	ANSWER_RESET,
	ANSWER_DROP,
	ANSWER_PASS,
};

/*
 * Two handshakes made one: the director's with the client by a cookie, and the one with the
 * real server. 64 bits that change as one, of each connection with CONN_SPLICED: conn6.more,
 * and for IPv4, whose slots have no room, in an array by the number of the slot. Above the
 * parts below: 25 bits of the timestamp that the client was told, 26 of them before the real
 * server has answered; then what is added to its timestamps, of which the low bits are 0.
 * From bit 32 on: the first sequence number that the client was told; answered: what is added to the
 * real server's.
 */
enum splice_part {
	SPLICE_SCALE = 0xf,	/* a window scale: the client's, or with SPLICE_GRANTED the real server's */
	SPLICE_STAMPS = 1 << 4,	/* the client was promised timestamps */
	SPLICE_ANSWERED = 1 << 5, /* the real server has answered, */
	SPLICE_GRANTED = 1 << 6, /* and scales windows, as the client does */
	SPLICE_SHIFT_LOW = 0x7f, /* bits that a change of timestamps does not have */
	SPLICE_SEQ = 32,
};

/*
 * A virtual service. Userspace writes the plan that is not current, then turns
 * current; a plan's cursor counts what it has handed out since.
 */
struct service {
	__u32 flags;
	__u8 answer;
	__u8 protocol;
	__be16 port;	    /* 0: any, or a firewall mark's */
	__u32 current;	    /* plan[current & 1] is in force */
	__u32 id;	    /* its own: a slot of a plan that names another service's real server is stale */
	struct plan plan[2];
	struct plan flow;   /* hash plan over the usable real servers */
	__u64 cursor[2];
	__u64 no_real;	    /* packets that found no usable real server; sorry servers may have taken them */
	__u64 untracked;    /* new connections that found no room */
	struct counters gone; /* of real servers that were removed: userspace's, kept here to survive it */
	__u64 client_mask[2]; /* which clients share a template; IPv4 in the low half of the first */
	__u32 persistent;   /* seconds that a template lives after its last connection; 0: there are none */
	__be32 mark;	    /* the firewall mark that it stands for */
	__be16 template_port;
	__u16 mss;	    /* that SYNs are answered with by cookies */
	__u32 sorry;	    /* id + 1 of the service that its sorry servers are; 0: it has none */
	__u64 reserved3[3];
};

/* One key of the service table. id is written last, and cleared first. */
struct service_key {
	__u8 addr[16];	    /* IPv4 is mapped: ::ffff:a.b.c.d */
	__be16 port;
	__u8 protocol;
	__u8 reserved;
	__u32 id;	    /* service id + 1; 0: free */
	__u64 reserved2;
};

struct service_bucket {
	struct service_key key[SERVICE_WAYS];
};

struct plan_chunk {
	__u32 slot[PLAN_CHUNK]; /* real server ids */
};

/*
 * A marking rule, by what it wants of a packet: the words of its two addresses
 * (IPv4 in the low halves of the first), ports and interface << 32, protocol and
 * DSCP << 8 and the number of its shape << 32. A range is several of them.
 */
struct mark_rule {
	__u64 key[MARK_WORDS];
	__u32 rule;	    /* its number, from 1: the lowest wins; 0: free */
	__be32 mark;
	__u64 packets;	    /* that it marked: those of no known connection */
};

struct mark_bucket {
	struct mark_rule rule[MARK_WAYS];
};

/* What of a packet some rules look at, as masks of the words of a rule's key. */
struct mark_shape {
	__u64 mask[MARK_WORDS];
	__u32 first;	    /* the lowest number of its rules - 1; shapes are in the order of it */
	__u32 reserved[3];
};

/* All rules. There are two sets: the one in force, and the one being written. */
struct mark_set {
	__u64 factor[MARK_WORDS]; /* odd, of the hash */
	__u32 base;	    /* its first bucket */
	__u32 mask;	    /* buckets - 1 */
	__u32 shapes[2];    /* IPv4, IPv6 */
};

/* May a packet that is of no address's service be that of a mark's? */
enum marking {
	MARKS_NONE,
	MARKS_KNOWN,	    /* the filter knows all addresses and ports that are marked */
	MARKS_ANY,
};

/* What explain_mark is asked: which rule marks a packet, and whose it is. */
struct mark_question {
	struct conn_key key; /* the packet's addresses, ports and protocol */
	__u32 ingress;
	__u32 dscp;
	__be32 mark;	    /* asked: the firewall's, 0: none; answered: the packet's */
	__u32 rule;	    /* answered: see packet.mark_rule */
	__u32 service;	    /* answered: id + 1; 0: no service's */
};

/* What becomes of packets to ports of a virtual address that no service has. */
enum closed_ports {
	CLOSED_PASS,
	CLOSED_DROP,
	CLOSED_RESET,
};

/* A virtual address. IPv4 is mapped. */
struct closed_key {
	__u8 addr[16];
};

/* What a prefix says; the low bits of an entry of the prefix table. */
enum prefix_says {
	PREFIX_NOTHING = 1, /* it only leads to longer ones */
	PREFIX_ALLOW,
	PREFIX_DENY,
	PREFIX_LAST = 4,    /* a bit: the list has no longer one inside */
	PREFIX_SAYS = 7,
};

/* A hash of a prefix, its length and its list, but for the low bits: enum prefix_says. 0: free. Filled in order. */
struct prefix_bucket {
	__u64 entry[PREFIX_WAYS];
};

/*
 * Which lengths of a list are tried in which order, for one family: a tree of
 * nodes, each its length | node when an entry was found << 8 | when none was << 16.
 * The first to try is "found" of node 0, which also stands for the end.
 */
struct prefix_tree {
	__u32 node[PREFIX_LENGTHS + 1];
};

/* All lists. There are two sets: the one in force, and the one being written. */
struct prefix_set {
	__u64 factor;	    /* odd, of the hash */
	__u32 base;	    /* its first bucket */
	__u32 mask;	    /* buckets - 1 */
};

/*
 * What new connections of a service have to get past, or, in row 0, those of all.
 * A limit of so many a second is what one costs, and how much may be spent in
 * advance; the unit is 2^-20 jiffies. A cost of 0: no limit.
 */
struct guard {
	__u64 budget_cost;  /* of each prefix of clients */
	__u64 budget_burst;
	__u64 ceiling_cost; /* of all clients */
	__u64 ceiling_burst;
	__u64 ceiling_paid; /* until when the connections so far have paid: written by packets */
	__u32 list;	    /* of prefixes; 0: none */
	__u8 prefix4;	    /* length of the prefixes that have a budget */
	__u8 prefix6;
	__u16 reserved;
	__u64 reserved2[2];
};

/* What one prefix has begun. */
struct budget {
	__u64 key;	    /* a keyed hash; 0: free */
	__u64 paid;	    /* as guard.ceiling_paid */
};

struct budget_bucket {
	struct budget budget[BUDGET_WAYS];
};

/* A packet that would begin a connection, and what became of it. */
struct sample {
	__u8 addr[16];	    /* source; IPv4 is mapped */
	__u32 service;
	__u32 verdict;	    /* UNDECIDED: it was let in */
};

/* The last ones that one CPU has seen. */
struct sample_ring {
	__u64 count;	    /* of all so far: the next goes to sample[count % SAMPLES] */
	__u64 reserved;
	struct sample sample[SAMPLES];
};

/* What userspace changes while packets flow. */
struct hash_key {
	__u64 factor;	    /* odd */
	__u32 word[10];	    /* for ports, protocol, and the words of two addresses */
};

struct runtime_settings {
	__u32 secure_tcp;   /* 1: the second set of transition tables */
	__u32 port0;	    /* services with port 0 exist: 1 */
	__u32 ftp;	    /* services with port 21 exist: 1 (IPVS look-up order) */
	__u32 nat;	    /* real servers by nat or fullnat exist: 1 */
	__u32 nat_any_port; /* and their replies may come from any port: 1 */
	__u32 hz;	    /* jiffies of a second */
	__u32 marking;	    /* enum marking */
	__u32 mark_set;	    /* mark_sets[mark_set & 1] is in force */
	struct mark_set mark_sets[2];
	__u32 tunnels;	    /* real servers by tun exist: 1 */
	__u32 local_ports;  /* of full-NAT: the first | how many << 16 */
	__u32 door;	    /* interface that packets with the firewall's marks come in by; 0: there is none */
	__u32 probe;	    /* interface that health checks as a client's come in by; 0: there is none */
	__u64 reserved3;
	struct hash_key hash_key; /* drawn once, never changed while connections exist */
	__u32 trace;	    /* a number that is new each time that somebody begins to trace; 0: nobody does */
	__u32 timeout[TIMEOUTS]; /* by connection state, jiffies */
	__u32 defending;    /* enum defending: what new connections have to get past */
	__s32 drop_rate;    /* drop_packet: of so many new connections one is dropped; below 0: all */
	__u32 closed_ports; /* addresses exist whose closed ports are not left to the stack: 1 */
	__u32 prefix_set;   /* prefix_sets[prefix_set & 1] is in force */
	struct prefix_set prefix_sets[2];
	__u64 cookie_key[2]; /* drawn once; who knows it can make connections from any address */
	__u32 cookie_period; /* jiffies: a cookie is good for one to two of them; 0: for ever */
	__u32 reserved2;
	__u32 trace_until;  /* low 32 bits of jiffies: whoever traces moves it on, or it ends then */
	__u32 trace_rate;   /* packets that each CPU tells of in a second, or in what is left of the one; 0: all */
	__u32 trace_bytes;  /* of each frame, the most that any trace wants */
	__u32 reserved;
};

/* The defenses of settings.defending, as bits. */
enum defending {
	DEFEND_RATE = 1,    /* drop_packet */
	DEFEND_GUARD = 2,   /* there are guards */
	DEFEND_SAMPLE = 4,  /* samples are wanted */
};

/* What the defenses remember between packets. */
struct defense_state {
	__s32 drop_left;    /* drop_packet: new connections until the next is dropped, for all services (IPVS) */
	__u32 reserved;
	__u64 proven;	    /* connections whose clients have brought a cookie back */
	__u64 rehearsed;    /* of a rehearsal: the time that it is there, in jiffies (rehearsal.go) */
	__u32 reserved2[10];
};

/*
 * Which packets a trace wants: a coarse choice, userspace looks closer. Client and
 * virtual address are those of struct trace_head; what a mask leaves out may be
 * anything.
 */
struct trace_filter {
	__u64 verdicts;	    /* as bits */
	__u64 flow[4];
	__u64 flow_mask[4];
	__u64 real[2];	    /* address; IPv4 is mapped */
	__u64 real_mask[2];
	__u64 lost;	    /* packets that it wanted, and was not told of */
	__u16 first[2];	    /* ports, in host order: from, */
	__u16 last[2];	    /* and up to */
	__u32 active;	    /* 1: somebody traces; written last */
	__u16 bytes;	    /* of each frame */
	__u8 family;	    /* 4, 6; 0: any */
	__u8 protocol;	    /* 0: any */
};

/*
 * A packet that was traced. Behind it come bytes of the frame, as it came, and
 * as it left. Addresses are in the form of struct packet; 0: it is no IP.
 */
struct trace_head {
	__u64 time_ns;	    /* monotonic */
	__u64 addr[4];	    /* as it came */
	__u64 flow[4];	    /* as the client sent it, or would have: of a reply, and of an error that leaves as one, backwards */
	__u32 ports;
	__u32 flow_ports;
	__u32 ingress;	    /* interface */
	__u32 egress;	    /* 0: the same */
	__u32 real;	    /* id; NO_REAL */
	__be32 mark;	    /* firewall mark */
	__u32 length;	    /* of the frame, as it came, */
	__u32 left;	    /* and as it left; 0: it did not */
	__u16 before;	    /* bytes that follow of the first, */
	__u16 after;	    /* and of the second */
	__u8 traces;	    /* that want it, as bits */
	__u8 verdict;
	__u8 action;	    /* of XDP */
	__u8 protocol;
	__u8 tcp;	    /* flags */
	__u8 fragment;
	__u8 reply;	    /* 1: flow is not the packet's own */
	__u8 reserved[5];
};

/* What one CPU notes of a packet that is being traced. */
struct trace_note {
	__u32 trace;	    /* settings.trace when it came; 0: it is not traced */
	__u32 second;	    /* that told is of */
	__u32 told;
	__u32 reserved;
	struct trace_head head;
	__u8 bytes[2 * TRACE_BYTES];
};

/* What read_clock tells: packets are timed in jiffies, whose rate userspace does not know. */
struct clock_reading {
	__u64 jiffies;
	__u64 monotonic_ns;
};

/* Fixed when the programs are loaded. */
struct load_config {
	__u32 conn4_mask;   /* places of the IPv4 table - 1 */
	__u32 conn6_mask;
	__u32 service_mask; /* buckets of the service table - 1 */
	__u32 cpus;	    /* stride of the per-CPU statistics */
	__u16 unprivileged_port; /* first port an FTP service claims */
	__u16 answer_limit; /* ICMP errors and resets one CPU sends in a window */
	__u16 answer_window; /* jiffies */
	__u16 total_order;  /* 1: this machine's stores are seen in their order (x86) */
};

_Static_assert(sizeof(struct conn) == 56, "conn");
_Static_assert(__builtin_offsetof(struct conn, ingress) == __builtin_offsetof(struct conn, peer) + 6, "peer and ingress are read as one word");
_Static_assert(sizeof(struct conn4) == 64, "an IPv4 connection is one cache line");
_Static_assert(sizeof(struct conn6) == 128, "an IPv6 connection is two cache lines");
_Static_assert(sizeof(struct tunnel) == 64, "tunnel");
_Static_assert(sizeof(struct real) == 192, "real");
_Static_assert(sizeof(struct source) == 16, "source");
_Static_assert(sizeof(struct probe) == 24, "probe");
_Static_assert(sizeof(struct real_counts) == 64, "real_counts");
_Static_assert(sizeof(struct real_stats) == 64, "real_stats");
_Static_assert(sizeof(struct service) == 192, "service");
_Static_assert(sizeof(struct service_bucket) == 128, "service_bucket");
_Static_assert(sizeof(struct mark_bucket) == 256, "mark_bucket");
_Static_assert(sizeof(struct plan_chunk) == 64, "plan_chunk");
_Static_assert(sizeof(struct guard) == 64, "guard");
_Static_assert(__builtin_offsetof(struct runtime_settings, trace) / 64 == (__builtin_offsetof(struct runtime_settings, trace) - 1) / 64,
	       "who does not trace pays for no further cache line");
_Static_assert(sizeof(struct prefix_bucket) == 64, "prefix_bucket");
_Static_assert(sizeof(struct budget_bucket) == 64, "budget_bucket");
_Static_assert(sizeof(struct destination_key) == 24, "destination_key");
_Static_assert(sizeof(struct destination) == 16 + 8 * DESTINATION_REALS, "destination");

#endif
