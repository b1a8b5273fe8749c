/*
 * A user-space NVMe/TCP host for C programs.
 *
 * A client owns a loop (one io_uring) and lives in yours:
 *
 *     wait for dolmen_client_fd() to be readable, for dolmen_client_timeout_ns() at most
 *     dolmen_client_poll()           what came is taken, what was submitted is sent
 *     dolmen_completions()           -> your next submits; then poll once more, to send them
 *     dolmen_notices(), dolmen_discovery_changes()   what else happened, for who wants to know
 *
 * Rules
 *   - A client, its buffers and its subsystems belong to one thread: the one that made the client. Several threads have a
 *     client each.
 *   - Every command that is taken ends in exactly one completion.
 *   - A buffer that a command was submitted with belongs to the command until its completion names it again. Before that it
 *     must be neither read nor written, and then its bytes may be elsewhere: ask dolmen_buffer_data() anew.
 *   - Structures that begin with `size` grow at their end. Of one that the library fills, set `size` before the call, of an array
 *     that of its first: `paths[0].size = sizeof paths[0]`. The library fills what both know, and `size` of each.
 *   - A place for an array may be NULL: then functions that return how many there are do only that.
 *   - Functions that return int return DOLMEN_OK or more on success, one of enum dolmen_error below zero; dolmen_error_text()
 *     says more about the last failure of a client.
 */
#ifndef DOLMEN_INITIATOR_H
#define DOLMEN_INITIATOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this interface. Structures only ever grow at their end; `size` tells how much of one the caller knows. */
#define DOLMEN_ABI 1u
uint32_t dolmen_abi(void);

/* Every path, queue or kind of command; any queue; no subsystem or no path. */
#define DOLMEN_ALL 0xffffffffu

enum dolmen_error {
    DOLMEN_OK = 0,
    DOLMEN_INVALID = -1,   /* an argument that cannot be */
    DOLMEN_FULL = -2,      /* as many commands as fit are under way; take completions first */
    DOLMEN_GONE = -3,      /* no such subsystem, or it was given up or disconnected */
    DOLMEN_TOO_LARGE = -4, /* more data than the controller takes in one command */
    DOLMEN_NO_MEMORY = -5, /* the client's pool is empty */
    DOLMEN_TIMEOUT = -6,   /* it did not happen in the time given */
    DOLMEN_FAILED = -7,    /* see dolmen_error_text() */
    DOLMEN_BUSY = -8       /* the buffer belongs to a command */
};

enum dolmen_state {
    DOLMEN_CONNECTING = 0, /* not connected (yet, or again); commands wait */
    DOLMEN_LIVE = 1,       /* commands flow */
    DOLMEN_LOST = 2,       /* given up; every command fails */
    DOLMEN_CLOSED = 3      /* disconnected, or never connected */
};

enum dolmen_outcome {
    DOLMEN_DONE = 0,        /* the controller says Successful Completion */
    DOLMEN_STATUS = 1,      /* the controller says `status` */
    DOLMEN_EXPIRED = 2,     /* its deadline passed */
    DOLMEN_CONNECTION = 3,  /* the controller was lost, and it may not be sent twice, or for too long */
    DOLMEN_DISCONNECTED = 4 /* the subsystem was disconnected */
};

typedef struct dolmen_client dolmen_client;
typedef struct dolmen_buffer dolmen_buffer;

/* How commands are spread over the paths that reach their namespace best, as ANA tells. */
enum dolmen_policy {
    DOLMEN_ACTIVE_PASSIVE = 0, /* all on the first of them */
    DOLMEN_ROUND_ROBIN = 1,
    DOLMEN_QUEUE_DEPTH = 2 /* on the one with the fewest commands under way */
};

/* What is done about changes whose outcome is unknown when another path takes over. */
enum dolmen_fencing {
    DOLMEN_FENCE_BLOCKS = 0,   /* sent again at once; their blocks take no other change for a while: one host writes */
    DOLMEN_FENCE_COMMANDS = 1, /* sent again after a while: several hosts write to the same blocks */
    DOLMEN_FENCE_OFF = 2       /* as the Linux kernel does it */
};

/* How to reach a subsystem. dolmen_options_init() fills in the usual values; then set what should differ. */
struct dolmen_options {
    size_t size;             /* sizeof(struct dolmen_options), set by dolmen_options_init() */
    const char *address;     /* "192.0.2.1:4420" or "[2001:db8::1]:4420" */
    const char *subsystem;   /* NQN of the subsystem */
    const char *host;        /* NQN of this host */
    uint8_t host_id[16];     /* host identifier, the same for all connections of this host; not all zeroes */
    uint16_t io_queues;      /* 1 to 128, one TCP connection each; default 1 */
    uint16_t queue_depth;    /* 1 to 1023 commands under way on each; default 128 */
    uint8_t header_digest;   /* 1: CRC-32C over every PDU's header; default 0 */
    uint8_t data_digest;     /* 1: CRC-32C over every PDU's data; default 0 */
    uint8_t policy;          /* enum dolmen_policy; default DOLMEN_ACTIVE_PASSIVE */
    uint8_t fencing;         /* enum dolmen_fencing; default DOLMEN_FENCE_BLOCKS */
    uint32_t keep_alive_ms;  /* 0 for none, which takes one path or DOLMEN_FENCE_OFF; default 15000 */
    uint64_t connect_timeout_ms; /* for one step of connecting; default 5000 */
    uint64_t io_timeout_ms;  /* a command unanswered for so long is aborted; default 30000 */
    uint64_t abort_timeout_ms; /* if that doesn't help for so long, the controller is reset; 0: at once; default 5000 */
    uint64_t fast_fail_ms;   /* without any path for so long, commands fail at once; UINT64_MAX (default): they wait */
    uint64_t loss_timeout_ms; /* how long a controller may stay away; UINT64_MAX for ever; default 600000 */
    const char *more_addresses; /* further paths to the same subsystem, separated by commas, preferred in this order; or
                                   NULL (default) */
    uint64_t quiesce_ms;     /* how long commands of a lost connection may go on once its controller has noticed; UINT64_MAX
                                (default): what the controller says */
    size_t backlog;          /* commands that may wait while all queues are full or nothing is connected; at least 1, and with the
                                 queues' depth at most 262144; default 1024 */
    size_t stage_bytes;      /* data of writes up to this size is copied beside their headers, longer data is sent from where it
                                is; at most 16384; default 2048 */
    uint64_t reconnect_min_ms; /* pause before the second attempt to connect; doubles with each further one, until a
                                  connection has lived for reconnect_max_ms; default 50 */
    uint64_t reconnect_max_ms; /* longest pause between attempts; default 5000 */
    uint32_t retries;        /* how often a command is sent again when the controller says "not now"; default 100 */
    uint8_t preference;      /* of `address`, smaller is preferred; those of `more_addresses` have 1, 2, ...; default 0 */
    uint8_t reserved[3];     /* 0 */
};
#define dolmen_options_init(options) dolmen_options_init_sized((options), sizeof(struct dolmen_options))
void dolmen_options_init_sized(struct dolmen_options *options, size_t size);

/* What became of a command. */
struct dolmen_completion {
    uint64_t ticket;         /* the command's */
    uint64_t result;         /* dwords 0 and 1 of the completion queue entry */
    uint64_t latency_ns;     /* from submit to completion */
    dolmen_buffer *buffer;   /* the command's buffer, or NULL; for compare-and-write the one that was to be written */
    uint32_t subsystem;      /* the subsystem it was for */
    int32_t outcome;         /* enum dolmen_outcome */
    uint16_t status;         /* the Status Field's 15 bits, with DOLMEN_STATUS */
    uint16_t queue;          /* the I/O queue that it was last sent on, from 0 */
    uint32_t reserved;       /* 0 */
};

/* A namespace. */
struct dolmen_namespace {
    uint64_t blocks;         /* size in logical blocks */
    uint32_t block_bytes;    /* size of a logical block */
    uint32_t nsid;
    uint8_t uuid[16];        /* zeroes if there is none */
    uint8_t nguid[16];       /* zeroes if there is none */
};

/* Consecutive logical blocks. */
struct dolmen_range {
    uint64_t lba;
    uint32_t blocks;
    uint32_t reserved;       /* 0 */
};

/* What a controller is and can do. */
struct dolmen_identity {
    size_t size;
    uint32_t max_transfer_bytes; /* data of one command; the least of all live paths */
    uint32_t in_capsule_bytes;   /* data that may follow a write in its capsule */
    uint32_t max_namespaces;
    uint32_t ana_groups;         /* 0 without ANA */
    uint32_t atomic_compare_blocks; /* blocks of dolmen_compare_and_write() */
    uint16_t controller_id;
    uint16_t max_entries;        /* entries of one I/O queue */
    uint16_t io_queues;          /* that were granted; 0 while nothing is live */
    uint16_t optional_nvm;       /* ONCS: optional commands */
    uint16_t retry_delays[3];    /* CRDT1 to 3, in units of 100 ms */
    uint16_t quiesce_ms;         /* CQT; 0 when not reported */
    uint16_t aborts;             /* Abort commands that may be under way */
    uint8_t events;              /* 1: reports events */
    uint8_t ana;                 /* 1: reports ANA */
    uint8_t ana_transition_s;    /* ANATT */
    uint8_t traffic_keeps_alive; /* 1: any command keeps the connection alive */
    uint8_t fused;               /* 1: takes dolmen_compare_and_write() */
    uint8_t reserved;            /* 0 */
    char serial[32];
    char model[48];
    char firmware[16];
    char subsystem[264];
};

/* A namespace that is followed. */
struct dolmen_known_namespace {
    size_t size;
    uint64_t blocks;         /* size in logical blocks */
    uint32_t block_bytes;    /* size of a logical block */
    uint32_t nsid;
    uint8_t uuid[16];        /* zeroes if there is none */
    uint8_t nguid[16];       /* zeroes if there is none */
    uint8_t deallocated_reads_zero; /* 1: trimmed blocks read as zeroes */
    uint8_t reserved[7];     /* 0 */
};

enum dolmen_notice_kind {
    DOLMEN_NOTICE_STATE = 1,        /* `value`: the subsystem's new enum dolmen_state; with DOLMEN_LOST a text */
    DOLMEN_NOTICE_PATH_LIVE = 2,    /* commands can flow on `path` */
    DOLMEN_NOTICE_PATH_LOST = 3,    /* `path` was lost or could not be connected; another attempt follows; with a text */
    DOLMEN_NOTICE_PATH_GIVEN_UP = 4, /* no attempt follows on `path`, others go on; the last one's end is DOLMEN_LOST; with a text */
    DOLMEN_NOTICE_MISMATCH = 5,     /* `nsid` is not the same on `path` as on the others: that is not used for it */
    DOLMEN_NOTICE_EVENT = 6,        /* the controller of `path` reported an event, `value`: dword 0 of its completion */
    DOLMEN_NOTICE_NAMESPACE_NEW = 7, /* these three with dolmen_follow_namespaces(): `nsid` came, */
    DOLMEN_NOTICE_NAMESPACE_GONE = 8, /* is gone, */
    DOLMEN_NOTICE_NAMESPACE_CHANGED = 9, /* or is not what it was: its size, say */
    DOLMEN_NOTICE_MISSED = 10       /* `value` notices were not taken in time and are lost: look at everything anew */
};

/* Events, as `value` of DOLMEN_NOTICE_EVENT. One stays masked until the log page of its byte 2 was read with dolmen_get_log(). ANA's
 * is read by the client itself; with several paths all others too, and DOLMEN_EVENT_NAMESPACES with dolmen_follow_namespaces(). */
#define DOLMEN_EVENT_NAMESPACES 0x00040002u
#define DOLMEN_EVENT_ANA 0x000c0302u
#define DOLMEN_EVENT_DISCOVERY 0x0070f002u
#define DOLMEN_EVENT_RESERVATION 0x00800006u

/* Why a path or a subsystem was lost, for code. */
enum dolmen_error_kind {
    DOLMEN_KIND_NONE = 0,        /* nothing was lost */
    DOLMEN_KIND_OPTIONS = 1,     /* the options can't work */
    DOLMEN_KIND_CONNECTION = 2,  /* the address can't be reached, or the connection was lost */
    DOLMEN_KIND_REFUSED = 3,     /* the controller answered with an error status while it was connected to */
    DOLMEN_KIND_PROTOCOL = 4,    /* the controller broke the protocol */
    DOLMEN_KIND_TIMEOUT = 5,     /* the controller was silent for too long */
    DOLMEN_KIND_UNSUPPORTED = 6, /* the controller demands what this host does not have */
    DOLMEN_KIND_MEMORY = 7       /* the client's pool has no buffer for the connection's own needs */
};

/* Something that happened beside completions. */
struct dolmen_notice {
    size_t size;
    uint64_t value;
    uint32_t subsystem;      /* DOLMEN_ALL with DOLMEN_NOTICE_MISSED */
    int32_t kind;            /* enum dolmen_notice_kind */
    uint32_t path;           /* its place in `address` (0) and `more_addresses` (from 1); DOLMEN_ALL where there is none */
    uint32_t nsid;
    int32_t error;           /* enum dolmen_error_kind: why */
    uint16_t status;         /* the Status Field's 15 bits, where the controller gave one */
    uint16_t reserved;       /* 0 */
    char text[256];          /* why, for people; cut if it is longer */
};

/* Which discovery services to ask, and who asks. dolmen_discovery_options_init() fills in the usual values. */
struct dolmen_discovery_options {
    size_t size;             /* set by dolmen_discovery_options_init() */
    const char *addresses;   /* "192.0.2.1:8009", or several with commas between them */
    const char *host;        /* NQN of this host */
    uint8_t host_id[16];     /* not all zeroes */
    size_t max_services;     /* services connected to at most, referrals included; default 32 */
    uint32_t keep_alive_ms;  /* not 0; default 30000 */
    uint32_t reserved;       /* 0 */
};
#define dolmen_discovery_options_init(options) \
    dolmen_discovery_options_init_sized((options), sizeof(struct dolmen_discovery_options))
void dolmen_discovery_options_init_sized(struct dolmen_discovery_options *options, size_t size);

enum dolmen_discovered_kind {
    DOLMEN_REFERRAL = 1,     /* another discovery service; it is asked too */
    DOLMEN_SUBSYSTEM = 2,
    DOLMEN_CURRENT = 3,      /* the service that answered, as an entry of its own log */
    DOLMEN_OTHER_KIND = 0x100 /* and more: with the SUBTYPE of a later specification in the low byte */
};

/* What a discovery service names. */
struct dolmen_discovered {
    size_t size;
    int32_t kind;            /* enum dolmen_discovered_kind */
    uint16_t port_id;        /* PORTID */
    uint16_t port;           /* transport service identifier */
    uint8_t needs_tls;       /* 1: demands a secure channel, which this host does not have */
    uint8_t reserved[7];     /* 0 */
    char address[64];        /* transport address */
    char connect_to[72];     /* both, as dolmen_options wants them */
    char by[72];             /* the service that names it */
    char nqn[264];
};

enum dolmen_change_kind {
    DOLMEN_APPEARED = 1,     /* a subsystem's port is named now */
    DOLMEN_GONE_FROM_LOG = 2, /* it is not named any more */
    DOLMEN_FOLLOWING = 3,    /* a referral is followed; `connect_to` and `by` alone are set */
    DOLMEN_NOT_FOLLOWED = 4, /* it is not: too far away, or too many; with a text */
    DOLMEN_TROUBLE = 5,      /* the service at `connect_to` can't be read now; what it named stays named; with a text */
    DOLMEN_MISSED = 6        /* `value` changes were not taken in time and are lost: dolmen_discovered_records() has what counts */
};

/* Something that changed in a discovery log. */
struct dolmen_change {
    size_t size;
    uint64_t value;
    int32_t kind;            /* enum dolmen_change_kind */
    uint16_t port_id;
    uint8_t needs_tls;
    uint8_t reserved;        /* 0 */
    char connect_to[72];
    char by[72];
    char nqn[264];
    char text[256];
};

enum dolmen_register_action { DOLMEN_REGISTER = 0, DOLMEN_UNREGISTER = 1, DOLMEN_REPLACE = 2 };
enum dolmen_acquire_action { DOLMEN_ACQUIRE = 0, DOLMEN_PREEMPT = 1, DOLMEN_PREEMPT_AND_ABORT = 2 };
enum dolmen_release_action { DOLMEN_RELEASE = 0, DOLMEN_CLEAR = 1 };

/* Whether registrations and reservations of a namespace outlast a loss of power. */
enum dolmen_persistence { DOLMEN_PERSIST_UNCHANGED = 0, DOLMEN_PERSIST_NO = 2, DOLMEN_PERSIST_YES = 3 };

enum dolmen_reservation_type {
    DOLMEN_NO_RESERVATION = 0, /* in reports */
    DOLMEN_WRITE_EXCLUSIVE = 1,
    DOLMEN_EXCLUSIVE_ACCESS = 2,
    DOLMEN_WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 3,
    DOLMEN_EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 4,
    DOLMEN_WRITE_EXCLUSIVE_ALL_REGISTRANTS = 5,
    DOLMEN_EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 6
};

/* How a namespace is reserved. */
struct dolmen_reservation {
    size_t size;
    uint32_t generation;     /* grows with every change of registrations */
    int32_t type;            /* enum dolmen_reservation_type */
    uint32_t registrants;    /* that there are */
    uint8_t persists;        /* 1: outlasts a loss of power */
    uint8_t reserved[3];     /* 0 */
};

/* A host that is registered with a namespace. */
struct dolmen_registrant {
    size_t size;
    uint64_t key;
    uint8_t host_id[16];
    uint16_t controller_id;  /* 0xffff: any */
    uint8_t holder;          /* 1: holds the reservation */
    uint8_t reserved[5];     /* 0 */
};

/* How a path stands, and what happened on it. */
struct dolmen_path {
    size_t size;
    uint64_t connects;       /* connections that became live */
    uint64_t losses;         /* that were lost */
    uint64_t resent;         /* commands that were under way on lost ones and were sent again, here or elsewhere */
    uint64_t retried;        /* commands that were sent again because of their status */
    uint64_t aborts;         /* Abort commands sent */
    uint64_t resets;         /* controller resets */
    uint32_t path;           /* its number, as in notices */
    uint32_t queues;         /* I/O queues that statistics are kept of */
    int32_t controller_id;   /* of the controller behind it when it last was live; -1 before */
    uint8_t live;            /* 1: commands can flow */
    uint8_t given_up;        /* 1: no more attempts are made, or it was taken away */
    uint8_t reserved[2];     /* 0 */
    char address[72];
};

enum dolmen_ana_state {
    DOLMEN_ANA_OPTIMIZED = 1,
    DOLMEN_ANA_NON_OPTIMIZED = 2,
    DOLMEN_ANA_INACCESSIBLE = 3,
    DOLMEN_ANA_PERSISTENT_LOSS = 4,
    DOLMEN_ANA_CHANGE = 15
};

/* The ANA state of a namespace on a path. */
struct dolmen_ana {
    uint32_t nsid;
    int32_t state;           /* enum dolmen_ana_state */
};

enum dolmen_kind { DOLMEN_READS = 0, DOLMEN_WRITES = 1, DOLMEN_OTHERS = 2 };

/* What was done. Latencies are from being sent to the answer, of commands that ended well. */
struct dolmen_statistics {
    size_t size;
    uint64_t commands;       /* answered, well or not */
    uint64_t bytes;          /* moved by those that ended well */
    uint64_t errors;         /* answered with an error status; counted over all kinds together */
    uint64_t measured;       /* latencies that were measured; what follows is 0 of none */
    uint64_t mean_ns;
    uint64_t deviation_ns;   /* standard deviation */
    uint64_t min_ns;
    uint64_t max_ns;
};

/* Latencies that are counted together: from behind the bucket before up to `to_ns`. Buckets are at most 1/64 of that wide. */
struct dolmen_bucket {
    uint64_t to_ns;
    uint64_t count;
};

/* Where the data of a command goes. */
enum dolmen_direction { DOLMEN_NO_DATA = 0, DOLMEN_TO_HOST = 1, DOLMEN_TO_CONTROLLER = 2 };

/* A client with so many bytes of buffers, 4 MiB to 64 GiB (address space; memory is taken when used): half of them in buffers of
 * 4 KiB, a quarter in 32 KiB, a quarter in 260 KiB. An eighth of each kind stays for the client's own use. NULL when it is
 * less or more than that, when there is no memory for so much, or when the kernel has no io_uring for us. */
dolmen_client *dolmen_client_new(size_t pool_bytes);
/* Ends all connections at once. Buffers outlive the client and are to be freed as ever. NULL is allowed. */
void dolmen_client_free(dolmen_client *client);
/* The last failure of the client in words; valid until the next call. */
const char *dolmen_error_text(const dolmen_client *client);

/* Readable when there is something to poll for; stays the same. The client owns it. */
int dolmen_client_fd(dolmen_client *client);
/* How long to wait for the descriptor at most; -1 for as long as it takes. */
int64_t dolmen_client_timeout_ns(dolmen_client *client);
/* Takes what came, sends what was submitted. 1 when something came, else 0. Never waits. */
int dolmen_client_poll(dolmen_client *client);
/* Waits for something, for so long at most, then polls. */
int dolmen_client_wait(dolmen_client *client, uint64_t at_most_ns);

/* Starts to connect to a subsystem and keeps connected to it; `subsystem` gets its handle. Commands may be submitted at
 * once: they wait. */
int dolmen_connect(dolmen_client *client, const struct dolmen_options *options, uint32_t *subsystem);
/* Ends a subsystem: its commands complete with DOLMEN_DISCONNECTED, its connections close in the polls to come. */
int dolmen_disconnect(dolmen_client *client, uint32_t subsystem);
/* enum dolmen_state. */
int dolmen_state(dolmen_client *client, uint32_t subsystem);
/* What the first live controller said of itself, or the last one that was live. DOLMEN_FAILED before any was. */
int dolmen_identity(dolmen_client *client, uint32_t subsystem, struct dolmen_identity *out);
/* Adds a path ("192.0.2.1:4420"); returns its number, which may be that of one that was taken away. DOLMEN_INVALID: among others,
 * where a path that is not given up leads to the same address. */
int dolmen_add_path(dolmen_client *client, uint32_t subsystem, const char *address, uint8_t preference);
/* Takes a path away; what is under way on it goes to the others. DOLMEN_INVALID: there is no such path, or it is the last. */
int dolmen_remove_path(dolmen_client *client, uint32_t subsystem, uint32_t path);
/* The I/O queue, from 0, that commands for the subsystem take from now on (modulo the queues there are); DOLMEN_ALL, as at first:
 * the emptiest one. */
int dolmen_use_queue(dolmen_client *client, uint32_t subsystem, uint32_t queue);

/* These three wait, polling meanwhile. Completions of commands under way are kept for dolmen_completions(). */
int dolmen_wait_live(dolmen_client *client, uint32_t subsystem, uint64_t timeout_ms);
/* Ids of the namespaces that we may see, ascending: up to `most` into `nsids`. Returns how many there are. */
int dolmen_namespaces(dolmen_client *client, uint32_t subsystem, uint64_t timeout_ms, uint32_t *nsids, size_t most);
int dolmen_describe(dolmen_client *client, uint32_t subsystem, uint64_t timeout_ms, uint32_t nsid,
                    struct dolmen_namespace *out);

/* A buffer of the client's pool; NULL when it has none to spare. What it holds is undefined. */
dolmen_buffer *dolmen_buffer_new(dolmen_client *client, size_t bytes);
/* Where its bytes are; NULL while a command has it, and perhaps elsewhere after one than before, since what is read may have
   come into another one's memory. */
void *dolmen_buffer_data(dolmen_buffer *buffer);
size_t dolmen_buffer_size(const dolmen_buffer *buffer);
/* DOLMEN_BUSY while a command has it. NULL is allowed. */
int dolmen_buffer_free(dolmen_buffer *buffer);

/* Commands. `timeout_ms`: when to give up, counted from now; 0 for no deadline. A buffer's whole size is transferred. When a
 * function fails, nothing was submitted and the buffer is still the caller's. */
int dolmen_read(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms, uint32_t nsid,
                uint64_t lba, uint32_t blocks, dolmen_buffer *buffer);
int dolmen_write(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms, uint32_t nsid,
                 uint64_t lba, uint32_t blocks, dolmen_buffer *buffer, int fua);
int dolmen_compare(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms, uint32_t nsid,
                   uint64_t lba, uint32_t blocks, dolmen_buffer *buffer);
/* Compares with `compare` and, if that is what is stored, writes `write`, in one. Never sent twice. `compare` is copied and
 * stays the caller's; `write` belongs to the command. */
int dolmen_compare_and_write(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms,
                             uint32_t nsid, uint64_t lba, uint32_t blocks, const dolmen_buffer *compare,
                             dolmen_buffer *write);
int dolmen_write_zeroes(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms,
                        uint32_t nsid, uint64_t lba, uint32_t blocks, int deallocate);
int dolmen_flush(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms, uint32_t nsid);
int dolmen_trim(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms, uint32_t nsid,
                const struct dolmen_range *ranges, size_t count);
int dolmen_copy(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms, uint32_t nsid,
                uint64_t destination, const struct dolmen_range *sources, size_t count);

/* Has the controller read blocks and check them, without a transfer. */
int dolmen_verify(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms, uint32_t nsid,
                  uint64_t lba, uint32_t blocks);
/* Marks blocks as unreadable until they are written again. */
int dolmen_write_uncorrectable(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms,
                               uint32_t nsid, uint64_t lba, uint32_t blocks);

/* Commands about the controller. One page of Identify, into a buffer of 4096 bytes. */
int dolmen_identify(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms, uint8_t cns,
                    uint32_t nsid, dolmen_buffer *buffer);
/* The buffer's length of a log page, from a byte on, both multiples of 4; `nsid` 0xffffffff for the controller's. The event that
 * the page answers comes again once it was read with `retain_event` 0. */
int dolmen_get_log(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms, uint8_t page,
                   uint32_t nsid, uint64_t offset, int retain_event, dolmen_buffer *buffer);
/* Any command on the admin queue, or on an I/O queue: 64 bytes, whose identifier and data pointer are set by the client. `direction`:
 * enum dolmen_direction, of `buffer`, which is NULL without data. `resend`: it may be sent again when its outcome is unknown. */
int dolmen_admin_command(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms,
                         const void *sqe, int direction, dolmen_buffer *buffer, int resend);
int dolmen_io_command(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms, const void *sqe,
                      int direction, dolmen_buffer *buffer, int resend);

/* Reservations. These three are never sent twice: after DOLMEN_CONNECTION a report tells what became of them. A conflict is a
 * DOLMEN_STATUS of 0x083. Registers, unregisters or replaces this host's key. */
int dolmen_reservation_register(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms,
                                uint32_t nsid, int action, uint64_t current_key, uint64_t new_key,
                                int ignore_current_key, int persistence);
/* Takes a reservation, or preempts those with `preempt_key`. */
int dolmen_reservation_acquire(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms,
                               uint32_t nsid, int action, int type, uint64_t current_key, uint64_t preempt_key);
/* Gives a reservation back, or clears all registrations. */
int dolmen_reservation_release(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms,
                               uint32_t nsid, int action, int type, uint64_t current_key);
/* Asks for a report into a buffer, of 64 bytes and 64 more for each registrant. */
int dolmen_reservation_report(dolmen_client *client, uint32_t subsystem, uint64_t ticket, uint64_t timeout_ms,
                              uint32_t nsid, dolmen_buffer *buffer);
/* Reads the report that came into a buffer: up to `most` registrants into `registrants`. Returns how many the buffer has. */
int dolmen_reservation_read(dolmen_client *client, const dolmen_buffer *buffer, struct dolmen_reservation *out,
                            struct dolmen_registrant *registrants, size_t most);
/* The same in one, for who can wait. Returns how many were read; out->registrants tells how many there are. */
int dolmen_reservations(dolmen_client *client, uint32_t subsystem, uint64_t timeout_ms, uint32_t nsid,
                        struct dolmen_reservation *out, struct dolmen_registrant *registrants, size_t most);

/* Up to `most` completions into `out`, in order. Returns how many. */
size_t dolmen_completions(dolmen_client *client, struct dolmen_completion *out, size_t most);
/* Up to `most` notices into `out`, in order. Returns how many. 1024 are kept for those who come late. */
int dolmen_notices(dolmen_client *client, struct dolmen_notice *out, size_t most);

/* Follows a subsystem's namespaces, until it is disconnected: they are read when it becomes live and whenever a controller says that
 * they have changed, and notices tell what is not as it was. */
int dolmen_follow_namespaces(dolmen_client *client, uint32_t subsystem);
/* What is known of followed namespaces now: up to `most` into `out`, by ascending number. Returns how many there are. */
int dolmen_known_namespaces(dolmen_client *client, uint32_t subsystem, struct dolmen_known_namespace *out, size_t most);

/* Asks discovery services once and waits: up to `most` of what they name, each once, into `out`. Referrals are followed. Returns how
 * many there are. A service that can't be read is left out; DOLMEN_FAILED when nothing else is left. */
int dolmen_discover(dolmen_client *client, const struct dolmen_discovery_options *options, uint64_t timeout_ms,
                    struct dolmen_discovered *out, size_t most);
/* Follows discovery services and their referrals: connections to them are kept, and their logs read whenever they change. One
 * set of them a client. */
int dolmen_follow_discovery(dolmen_client *client, const struct dolmen_discovery_options *options);
/* Follows them no more, and forgets what they said. */
int dolmen_end_discovery(dolmen_client *client);
/* 1 when every service that is followed was read once or could not be, else 0. */
int dolmen_discovery_settled(dolmen_client *client);
/* What they name now, each once: up to `most` into `out`. Returns how many there are. */
int dolmen_discovered_records(dolmen_client *client, struct dolmen_discovered *out, size_t most);
/* What changed, in order, since the last call: up to `most` into `out`. Returns how many. 8192 are kept for those who come late. */
int dolmen_discovery_changes(dolmen_client *client, struct dolmen_change *out, size_t most);

/* How the paths of a subsystem stand: up to `most` into `out`. Returns how many there are. Not for every turn of a loop. */
int dolmen_paths(dolmen_client *client, uint32_t subsystem, struct dolmen_path *out, size_t most);
/* ANA states of the namespaces that a path's controller names: up to `most` into `out`. Returns how many there are. */
int dolmen_path_ana(dolmen_client *client, uint32_t subsystem, uint32_t path, struct dolmen_ana *out, size_t most);
/* What was done on a path or DOLMEN_ALL, on one of its I/O queues or DOLMEN_ALL, by one enum dolmen_kind or DOLMEN_ALL, since it was
 * added. Not for every turn of a loop. */
int dolmen_statistics(dolmen_client *client, uint32_t subsystem, uint32_t path, uint32_t queue, uint32_t kind,
                      struct dolmen_statistics *out);
/* Of the same, latencies that so many of 100,000 commands did not exceed, into `out_ns`: 50000 is the median, 99990 p99.99. */
int dolmen_percentiles(dolmen_client *client, uint32_t subsystem, uint32_t path, uint32_t queue, uint32_t kind,
                       const uint32_t *per_100000, uint64_t *out_ns, size_t count);
/* Of the same, the buckets that hold something, ascending: up to `most` into `out`. Returns how many there are. */
int dolmen_buckets(dolmen_client *client, uint32_t subsystem, uint32_t path, uint32_t queue, uint32_t kind,
                   struct dolmen_bucket *out, size_t most);

#ifdef __cplusplus
}
#endif

#endif /* DOLMEN_INITIATOR_H */
