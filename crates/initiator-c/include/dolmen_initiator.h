/*
 * A user-space NVMe/TCP host for C programs.
 *
 * A client owns a loop (one io_uring) and lives in yours:
 *
 *     wait for dolmen_client_fd() to be readable, for dolmen_client_timeout_ns() at most
 *     dolmen_client_poll()           what came is taken, what was submitted is sent
 *     dolmen_completions()           -> your next submits; then poll once more, to send them
 *
 * Rules
 *   - A client, its buffers and its subsystems belong to one thread: the one that made the client. Several threads have a
 *     client each.
 *   - Every command that is taken ends in exactly one completion.
 *   - A buffer that a command was submitted with belongs to the command until its completion names it again. Before that it
 *     must be neither read nor written, and then its bytes may be elsewhere: ask dolmen_buffer_data() anew.
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
};
void dolmen_options_init(struct dolmen_options *options);

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

/* A client with so many bytes of buffers, 4 MiB to 64 GiB (address space; memory is taken when used): half of them in buffers of
 * 4 KiB, a quarter in 32 KiB, a quarter in 260 KiB. An eighth of each kind stays for the client's own use. NULL when there is no
 * memory for so much, or the kernel has no io_uring for us. */
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

/* Up to `most` completions into `out`, in order. Returns how many. */
size_t dolmen_completions(dolmen_client *client, struct dolmen_completion *out, size_t most);

#ifdef __cplusplus
}
#endif

#endif /* DOLMEN_INITIATOR_H */
