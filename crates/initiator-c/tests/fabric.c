/* What a C program learns of a fabric: discovery, paths, namespaces, reservations, statistics. Its arguments are a discovery
 * service, a target, its subsystem, a second address of it, and an address where nobody listens. It says what is to happen to
 * the target, one word a line; it says what is wrong and ends with 1, or says "ok" and ends with 0. */
#define _POSIX_C_SOURCE 200809L
#include "dolmen_initiator.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 4096u
#define ALL DOLMEN_ALL
#define MS INT64_C(1000000)
#define CHECK(what)                                                          \
    do {                                                                     \
        if (!(what)) {                                                       \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what,            \
                    client ? dolmen_error_text(client) : "no client");       \
            exit(1);                                                         \
        }                                                                    \
    } while (0)
/* Refused, and the text says why. */
#define REFUSED(call, word) CHECK((call) == DOLMEN_INVALID && strstr(dolmen_error_text(client), (word)) != NULL)

static dolmen_client *client;
static uint32_t sub;
static dolmen_buffer *buffer;
static const char *service, *target, *subsystem, *second, *nobody;

static void say(const char *word)
{
    puts(word);
    fflush(stdout);
}

/* Sleeps as long as the client says; what it is to hear of next does not take so long as this. */
static void turn(void)
{
    const int64_t ns = dolmen_client_timeout_ns(client), most = 3000 * MS;
    struct pollfd fd = {0, POLLIN, 0};
    int ready;
    fd.fd = dolmen_client_fd(client);
    ready = poll(&fd, 1, ns < 0 || ns > most ? 3000 : (int)(ns / MS) + 1);
    CHECK(ready == 1 || (ns >= 0 && ns <= most));
    dolmen_client_poll(client);
}

/* Waits for a notice of that kind, of that path and namespace unless they are ALL; others are left out. */
static struct dolmen_notice hear(int32_t kind, uint32_t path, uint32_t nsid)
{
    struct dolmen_notice notice;
    int turns;
    dolmen_client_poll(client); /* what was asked for goes out */
    for (turns = 0; turns < 1000; turns++) {
        notice.size = sizeof notice;
        while (dolmen_notices(client, &notice, 1) == 1)
            if (notice.kind == kind && (path == ALL || notice.path == path) && (nsid == ALL || notice.nsid == nsid))
                return notice;
        turn();
    }
    fprintf(stderr, "never heard %d of path %u, namespace %u\n", (int)kind, (unsigned)path, (unsigned)nsid);
    exit(1);
}

static struct dolmen_change hear_change(int32_t kind, const char *nqn)
{
    struct dolmen_change change;
    int turns;
    dolmen_client_poll(client); /* what was asked for goes out */
    for (turns = 0; turns < 1000; turns++) {
        change.size = sizeof change;
        while (dolmen_discovery_changes(client, &change, 1) == 1)
            if (change.kind == kind && (nqn == NULL || strcmp(change.nqn, nqn) == 0))
                return change;
        turn();
    }
    fprintf(stderr, "never heard of change %d\n", (int)kind);
    exit(1);
}

/* Waits for the completion of the only command under way. */
static struct dolmen_completion done(int taken)
{
    struct dolmen_completion completion;
    CHECK(taken == DOLMEN_OK);
    while (dolmen_completions(client, &completion, 1) == 0)
        dolmen_client_wait(client, 100 * MS);
    return completion;
}

#define GOOD(call) CHECK(done(call).outcome == DOLMEN_DONE)

static struct dolmen_discovery_options asks_in_vain(void)
{
    struct dolmen_discovery_options options;
    struct dolmen_discovered found[4];

    dolmen_discovery_options_init(&options);
    CHECK(options.size == sizeof options && options.max_services == 32);
    found[0].size = sizeof found[0];
    REFUSED(dolmen_discover(client, NULL, 1000, found, 4), "NULL");
    REFUSED(dolmen_discover(client, &options, 1000, found, 4), "addresses");
    options.addresses = service;
    REFUSED(dolmen_discover(client, &options, 1000, found, 4), "host");
    options.host = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-00000000000d";
    REFUSED(dolmen_discover(client, &options, 1000, found, 4), "identifier");
    options.host_id[15] = 1;
    found[0].size = 0;
    REFUSED(dolmen_discover(client, &options, 1000, found, 4), "size");
    found[0].size = sizeof found[0];
    options.addresses = nobody;
    CHECK(dolmen_discover(client, &options, 10000, found, 4) == DOLMEN_FAILED);
    CHECK(strstr(dolmen_error_text(client), nobody) != NULL);
    options.addresses = service;
    CHECK(dolmen_discover(client, &options, 0, found, 4) == DOLMEN_TIMEOUT);
    return options;
}

static void discovers(void)
{
    struct dolmen_discovery_options options = asks_in_vain();
    struct dolmen_discovered found[4];
    int i, kinds[4] = {0, 0, 0, 0};

    found[0].size = sizeof found[0];
    CHECK(dolmen_discover(client, &options, 10000, NULL, 0) == 3);
    CHECK(dolmen_discover(client, &options, 10000, found, 4) == 3);
    for (i = 0; i < 3; i++) {
        CHECK(found[i].size == sizeof found[i] && found[i].needs_tls == 0);
        kinds[found[i].kind]++;
        if (strcmp(found[i].nqn, "nqn.2014-08.org.example:elsewhere") == 0)
            CHECK(found[i].port == 4420 && strcmp(found[i].address, "192.0.2.1") == 0 &&
                  strcmp(found[i].by, service) == 0 && found[i].kind == DOLMEN_SUBSYSTEM);
        else if (found[i].kind == DOLMEN_REFERRAL)
            CHECK(strcmp(found[i].connect_to, target) == 0 && strcmp(found[i].by, service) == 0);
        else /* the target's own, heard of by way of the referral */
            CHECK(strcmp(found[i].nqn, subsystem) == 0 && strcmp(found[i].connect_to, target) == 0 &&
                  strcmp(found[i].by, target) == 0 && found[i].port_id == 1);
    }
    CHECK(kinds[DOLMEN_REFERRAL] == 1 && kinds[DOLMEN_SUBSYSTEM] == 2);

    /* One service that answers is enough. */
    {
        char both[160];
        snprintf(both, sizeof both, "%s, %s", nobody, service);
        options.addresses = both;
        CHECK(dolmen_discover(client, &options, 10000, found, 1) == 3);
        options.addresses = service;
    }

    CHECK(dolmen_end_discovery(client) == DOLMEN_OK);
    REFUSED(dolmen_discovery_settled(client), "dolmen_follow_discovery");
    REFUSED(dolmen_discovered_records(client, found, 4), "dolmen_follow_discovery");
    options.keep_alive_ms = 0;
    REFUSED(dolmen_follow_discovery(client, &options), "keep_alive");
    options.keep_alive_ms = 30000;
    CHECK(dolmen_follow_discovery(client, &options) == DOLMEN_OK);
    REFUSED(dolmen_follow_discovery(client, &options), "already");
    dolmen_client_poll(client);
    while (dolmen_discovery_settled(client) == 0)
        turn();
    CHECK(strcmp(hear_change(DOLMEN_FOLLOWING, NULL).connect_to, target) == 0);
    CHECK(strcmp(hear_change(DOLMEN_APPEARED, subsystem).by, target) == 0);
    CHECK(dolmen_discovered_records(client, found, 4) == 3);
    /* A log that keeps changing is read again after a while, which the client says when to wake up for. */
    say("churn");
    (void)hear_change(DOLMEN_GONE_FROM_LOG, "nqn.2014-08.org.example:elsewhere");
    CHECK(strcmp(hear_change(DOLMEN_APPEARED, "nqn.2014-08.org.example:churned").connect_to, "192.0.2.1:4420") == 0);
}

static void connects_in_vain(void)
{
    struct dolmen_options options;
    struct dolmen_notice notice;
    struct dolmen_namespace ns;

    /* A program of the first header knows less of the options; what lies behind them is not touched, nor looked at. */
    memset(&options, 0xa5, sizeof options);
    dolmen_options_init_sized(&options, offsetof(struct dolmen_options, quiesce_ms));
    CHECK(options.size == offsetof(struct dolmen_options, quiesce_ms) && options.preference == 0xa5);
    options.address = nobody;
    options.subsystem = subsystem;
    options.host = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-00000000000d";
    options.host_id[15] = 1;
    CHECK(dolmen_connect(client, &options, &sub) == DOLMEN_OK);
    CHECK(dolmen_describe(client, sub, 20, 1, &ns) == DOLMEN_TIMEOUT);
    CHECK(dolmen_disconnect(client, sub) == DOLMEN_OK);
    CHECK(hear(DOLMEN_NOTICE_STATE, ALL, 0).value == DOLMEN_CLOSED);
    /* The target has no such subsystem: Connect Invalid Parameters, and there is no use in asking again. */
    options.address = target;
    options.subsystem = "nqn.2014-08.org.example:unheard-of";
    CHECK(dolmen_connect(client, &options, &sub) == DOLMEN_OK);
    notice = hear(DOLMEN_NOTICE_STATE, ALL, 0);
    CHECK(notice.value == DOLMEN_LOST && notice.error == DOLMEN_KIND_REFUSED && notice.text[0] != 0);
    CHECK((notice.status & 0x7ff) == 0x182 && dolmen_state(client, sub) == DOLMEN_LOST);
    CHECK(dolmen_disconnect(client, sub) == DOLMEN_OK);
    CHECK(hear(DOLMEN_NOTICE_STATE, ALL, 0).value == DOLMEN_CLOSED);
    options.subsystem = subsystem;
    options.more_addresses = nobody;
    options.loss_timeout_ms = 500; /* time enough for the path on which somebody answers */
    CHECK(dolmen_connect(client, &options, &sub) == DOLMEN_OK);
    CHECK(hear(DOLMEN_NOTICE_PATH_GIVEN_UP, 1, 0).error == DOLMEN_KIND_TIMEOUT);
    CHECK(dolmen_disconnect(client, sub) == DOLMEN_OK);
    while (hear(DOLMEN_NOTICE_STATE, ALL, 0).value != DOLMEN_CLOSED)
        ;
    REFUSED(dolmen_connect(client, NULL, &sub), "NULL");
    REFUSED(dolmen_connect(client, &options, NULL), "NULL");
}

static void connects(void)
{
    struct dolmen_options options;
    struct dolmen_identity identity;
    struct dolmen_notice notice;
    struct dolmen_path paths[4];

    dolmen_options_init(&options);
    CHECK(options.quiesce_ms == UINT64_MAX && options.backlog == 1024 && options.retries == 100);
    options.address = target;
    options.more_addresses = nobody;
    options.subsystem = subsystem;
    options.host = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-00000000000d";
    options.host_id[15] = 1;
    options.io_queues = 2;
    options.stage_bytes = 1 << 20;
    REFUSED(dolmen_connect(client, &options, &sub), "stage_bytes");
    options.stage_bytes = 2048;
    options.backlog = SIZE_MAX;
    REFUSED(dolmen_connect(client, &options, &sub), "backlog");
    options.backlog = 1024;
    CHECK(dolmen_connect(client, &options, &sub) == DOLMEN_OK);
    identity.size = sizeof identity;
    CHECK(dolmen_identity(client, sub, &identity) == DOLMEN_FAILED);
    CHECK(hear(DOLMEN_NOTICE_PATH_LIVE, 0, 0).subsystem == sub);
    notice = hear(DOLMEN_NOTICE_PATH_LOST, 1, 0);
    CHECK(strstr(notice.text, nobody) != NULL && notice.error == DOLMEN_KIND_CONNECTION && notice.status == 0);
    CHECK(dolmen_wait_live(client, sub, 1000) == DOLMEN_OK);

    CHECK(dolmen_identity(client, sub, &identity) == DOLMEN_OK);
    CHECK(strcmp(identity.model, "Dolmen") == 0 && strcmp(identity.serial, "d01be9") == 0);
    CHECK(strcmp(identity.firmware, "test") == 0 && strcmp(identity.subsystem, subsystem) == 0);
    CHECK(identity.io_queues == 2 && identity.fused == 1 && identity.ana == 1 && identity.events == 1);
    CHECK(identity.max_transfer_bytes >= BLOCK && identity.size == sizeof identity);

    REFUSED(dolmen_add_path(client, sub, NULL, 0), "NULL");
    REFUSED(dolmen_add_path(client, sub, "here", 0), "'here'");
    REFUSED(dolmen_add_path(client, sub, target, 0), "same address");
    CHECK(dolmen_add_path(client, sub, second, 1) == 2);
    (void)hear(DOLMEN_NOTICE_PATH_LIVE, 2, 0);
    REFUSED(dolmen_remove_path(client, sub, 7), "no such path");
    REFUSED(dolmen_remove_path(client, sub, 256), "no such path");
    CHECK(dolmen_remove_path(client, sub, 1) == DOLMEN_OK);
    paths[0].size = sizeof paths[0];
    CHECK(dolmen_paths(client, sub, paths, 4) == 3);
    CHECK(paths[0].live && paths[0].connects == 1 && paths[0].queues == 2 && strcmp(paths[0].address, target) == 0);
    CHECK(!paths[1].live && paths[1].given_up && paths[1].connects == 0 && paths[1].controller_id == -1);
    CHECK(paths[2].live && paths[2].path == 2 && paths[2].controller_id > 0 && paths[2].losses == 0);
    CHECK(strcmp(paths[2].address, second) == 0 && paths[2].size == sizeof paths[2]);
}

static void hears_of_namespaces(void)
{
    struct dolmen_known_namespace known[3];
    struct dolmen_ana ana[4];
    int i, moved = 0;

    known[0].size = sizeof known[0];
    REFUSED(dolmen_known_namespaces(client, sub, known, 3), "dolmen_follow_namespaces");
    CHECK(dolmen_follow_namespaces(client, sub) == DOLMEN_OK);
    (void)hear(DOLMEN_NOTICE_NAMESPACE_NEW, ALL, 1);
    (void)hear(DOLMEN_NOTICE_NAMESPACE_NEW, ALL, 2);
    CHECK(dolmen_known_namespaces(client, sub, known, 3) == 2);
    CHECK(known[0].nsid == 1 && known[0].block_bytes == BLOCK && known[0].blocks == 2048 && known[0].uuid[0] == 1);
    CHECK(known[1].nsid == 2 && known[1].block_bytes == 512 && known[1].blocks == 16384 && known[1].nguid[0] == 2);
    CHECK(known[1].deallocated_reads_zero == 1 && known[1].size == sizeof known[1]);

    say("resize");
    CHECK(hear(DOLMEN_NOTICE_EVENT, ALL, 0).value == DOLMEN_EVENT_NAMESPACES);
    (void)hear(DOLMEN_NOTICE_NAMESPACE_CHANGED, ALL, 1);
    CHECK(dolmen_known_namespaces(client, sub, known, 3) == 2 && known[0].blocks == 4096);

    /* Again, and the discovery log has nothing to name any more. */
    say("hide");
    (void)hear(DOLMEN_NOTICE_NAMESPACE_GONE, ALL, 1);
    (void)hear(DOLMEN_NOTICE_NAMESPACE_GONE, ALL, 2);
    CHECK(dolmen_known_namespaces(client, sub, NULL, 0) == 0);
    CHECK(strcmp(hear_change(DOLMEN_GONE_FROM_LOG, subsystem).by, target) == 0);
    CHECK(dolmen_discovered_records(client, NULL, 0) == 2);
    say("show");
    (void)hear(DOLMEN_NOTICE_NAMESPACE_NEW, ALL, 1);
    CHECK(strcmp(hear_change(DOLMEN_APPEARED, subsystem).connect_to, target) == 0);

    CHECK(dolmen_path_ana(client, sub, 0, ana, 4) == 2 && ana[0].nsid == 1 && ana[0].state == DOLMEN_ANA_OPTIMIZED);
    REFUSED(dolmen_path_ana(client, sub, 9, ana, 4), "path");
    say("move");
    for (i = 0; i < 10 && !moved; i++)
        moved = hear(DOLMEN_NOTICE_EVENT, ALL, 0).value == DOLMEN_EVENT_ANA;
    CHECK(moved);
}

static void counts(void)
{
    static const uint32_t wanted[3] = {0, 50000, 100000};
    static const uint32_t nonsense = 100001;
    struct dolmen_statistics all, one, two;
    struct dolmen_bucket buckets[64];
    uint64_t values[3], sum = 0;
    int i, count;
    struct { struct dolmen_path known; char more[64]; } newer[3];
    struct { size_t size; uint64_t connects; } older[3];

    all.size = one.size = two.size = sizeof all;
    CHECK(dolmen_statistics(client, sub, ALL, ALL, DOLMEN_WRITES, &all) == DOLMEN_OK);
    CHECK(all.commands == 0 && all.measured == 0 && all.max_ns == 0);
    CHECK(dolmen_use_queue(client, sub, 1) == DOLMEN_OK);
    for (i = 0; i < 10; i++) {
        struct dolmen_completion completion = done(dolmen_write(client, sub, 1, 5000, 1, (uint64_t)i, 1, buffer, 0));
        CHECK(completion.outcome == DOLMEN_DONE && completion.queue == 1);
    }
    REFUSED(dolmen_use_queue(client, sub, 70000), "70000");
    CHECK(dolmen_use_queue(client, sub, ALL) == DOLMEN_OK);
    GOOD(dolmen_read(client, sub, 1, 5000, 1, 0, 1, buffer));
    CHECK(done(dolmen_read(client, sub, 1, 5000, 1, 1u << 30, 1, buffer)).outcome == DOLMEN_STATUS);
    CHECK(dolmen_statistics(client, sub, ALL, ALL, DOLMEN_WRITES, &all) == DOLMEN_OK);
    CHECK(all.commands == 10 && all.bytes == 10 * BLOCK && all.errors == 1 && all.measured == 10);
    CHECK(all.min_ns > 0 && all.min_ns <= all.mean_ns && all.mean_ns <= all.max_ns && all.deviation_ns < all.max_ns);
    /* Which path is looked at first after the change of namespaces is chance. */
    CHECK(dolmen_statistics(client, sub, 0, 1, DOLMEN_WRITES, &one) == DOLMEN_OK);
    CHECK(dolmen_statistics(client, sub, 2, 1, DOLMEN_WRITES, &two) == DOLMEN_OK);
    CHECK(one.commands + two.commands == 10);
    CHECK(dolmen_statistics(client, sub, ALL, 0, DOLMEN_WRITES, &one) == DOLMEN_OK && one.commands == 0);
    CHECK(dolmen_statistics(client, sub, ALL, ALL, DOLMEN_READS, &one) == DOLMEN_OK);
    CHECK(one.commands == 2 && one.bytes == BLOCK && one.measured == 1);
    CHECK(dolmen_statistics(client, sub, ALL, ALL, ALL, &one) == DOLMEN_OK && one.commands == 12);
    CHECK(dolmen_percentiles(client, sub, ALL, ALL, DOLMEN_WRITES, wanted, values, 3) == DOLMEN_OK);
    CHECK(all.min_ns <= values[0] && values[0] <= values[1] && values[1] <= values[2] && values[2] == all.max_ns);
    count = dolmen_buckets(client, sub, ALL, ALL, DOLMEN_WRITES, buckets, 64);
    CHECK(count >= 1 && count <= 10 && buckets[count - 1].to_ns >= all.max_ns);
    for (i = 0; i < count; i++) {
        sum += buckets[i].count;
        CHECK(i == 0 || buckets[i].to_ns > buckets[i - 1].to_ns);
    }
    CHECK(sum == 10 && dolmen_buckets(client, sub, ALL, ALL, DOLMEN_WRITES, NULL, 0) == count);

    REFUSED(dolmen_statistics(client, sub, 9, ALL, ALL, &all), "path");
    REFUSED(dolmen_statistics(client, sub, ALL, 2, ALL, &all), "queue");
    REFUSED(dolmen_statistics(client, sub, ALL, ALL, 3, &all), "dolmen_kind");
    REFUSED(dolmen_statistics(client, sub, ALL, ALL, ALL, NULL), "NULL");
    REFUSED(dolmen_percentiles(client, sub, ALL, ALL, ALL, NULL, values, 3), "NULL");
    REFUSED(dolmen_percentiles(client, sub, ALL, ALL, ALL, &nonsense, values, 1), "100001");
    CHECK(dolmen_statistics(client, 99, ALL, ALL, ALL, &all) == DOLMEN_GONE);
    all.size = 4;
    REFUSED(dolmen_statistics(client, sub, ALL, ALL, ALL, &all), "size");

    /* A program of a later header knows more of a structure than the library: that is zeroes, and its places lie farther apart. */
    memset(newer, 0xa5, sizeof newer);
    newer[0].known.size = sizeof newer[0];
    CHECK(dolmen_paths(client, sub, &newer[0].known, 2) == 3);
    CHECK(strcmp(newer[1].known.address, nobody) == 0 && newer[1].more[0] == 0 && newer[1].more[63] == 0);
    CHECK(newer[2].known.path == 0xa5a5a5a5u);

    /* One of an earlier header knows less: it gets that, and what lies behind stays as it is. */
    memset(older, 0xa5, sizeof older);
    older[0].size = sizeof older[0];
    CHECK(dolmen_paths(client, sub, (struct dolmen_path *)older, 2) == 3);
    CHECK(older[0].connects == 1 && older[1].connects == 0 && older[1].size == sizeof older[1] && older[2].size != older[1].size);
}

static void commands_of_any_kind(void)
{
    unsigned char sqe[64];
    const unsigned char *page;
    dolmen_buffer *large = dolmen_buffer_new(client, 2 * BLOCK);

    GOOD(dolmen_verify(client, sub, 1, 5000, 1, 0, 8));
    CHECK(dolmen_verify(client, sub, 1, 5000, 1, 0, 0) == DOLMEN_INVALID);
    CHECK(dolmen_write_uncorrectable(client, sub, 1, 5000, 1, 0, 0) == DOLMEN_INVALID);
    /* This target has no such command: Invalid Command Opcode. */
    CHECK((done(dolmen_write_uncorrectable(client, sub, 1, 5000, 1, 0, 1)).status & 0x7ff) == 1);
    GOOD(dolmen_copy(client, sub, 1, 5000, 1, 100, (const struct dolmen_range[]){{0, 2, 0}}, 1));

    GOOD(dolmen_identify(client, sub, 1, 5000, 1, 0, buffer));
    page = dolmen_buffer_data(buffer);
    CHECK(memcmp(page + 4, "d01be9", 6) == 0);
    CHECK(dolmen_identify(client, sub, 1, 5000, 1, 0, large) == DOLMEN_INVALID);
    REFUSED(dolmen_identify(client, sub, 1, 5000, 1, 0, NULL), "NULL");
    CHECK(dolmen_buffer_data(large) != NULL);
    memset(dolmen_buffer_data(buffer), 0xee, BLOCK);
    GOOD(dolmen_get_log(client, sub, 1, 5000, 0x0c, ALL, 0, 1, buffer));
    page = dolmen_buffer_data(buffer);
    CHECK(page[8] == 2 && page[9] == 0); /* two ANA groups: one namespace was moved */
    CHECK(dolmen_get_log(client, sub, 1, 5000, 0x0c, ALL, 1, 1, buffer) == DOLMEN_INVALID);

    /* Identify by hand, and a Read. */
    memset(sqe, 0, sizeof sqe);
    sqe[0] = 0x06;
    sqe[40] = 1;
    memset(dolmen_buffer_data(buffer), 0, BLOCK);
    GOOD(dolmen_admin_command(client, sub, 1, 5000, sqe, DOLMEN_TO_HOST, buffer, 1));
    page = dolmen_buffer_data(buffer);
    CHECK(memcmp(page + 4, "d01be9", 6) == 0);
    memset(sqe, 0, sizeof sqe);
    sqe[0] = 0x01;
    sqe[4] = 1;
    memset(dolmen_buffer_data(buffer), 0x5c, BLOCK);
    GOOD(dolmen_io_command(client, sub, 1, 5000, sqe, DOLMEN_TO_CONTROLLER, buffer, 0));
    sqe[0] = 0x02;
    memset(dolmen_buffer_data(buffer), 0, BLOCK);
    GOOD(dolmen_io_command(client, sub, 1, 5000, sqe, DOLMEN_TO_HOST, buffer, 1));
    page = dolmen_buffer_data(buffer);
    CHECK(page[0] == 0x5c && page[BLOCK - 1] == 0x5c);
    sqe[0] = 0x00; /* Flush */
    GOOD(dolmen_io_command(client, sub, 1, 5000, sqe, DOLMEN_NO_DATA, NULL, 1));
    REFUSED(dolmen_io_command(client, sub, 1, 5000, NULL, DOLMEN_NO_DATA, NULL, 1), "NULL");
    REFUSED(dolmen_io_command(client, sub, 1, 5000, sqe, DOLMEN_NO_DATA, buffer, 1), "without data");
    REFUSED(dolmen_io_command(client, sub, 1, 5000, sqe, DOLMEN_TO_HOST, NULL, 1), "NULL");
    REFUSED(dolmen_io_command(client, sub, 1, 5000, sqe, 3, buffer, 1), "dolmen_direction");
    sqe[1] = 1;
    REFUSED(dolmen_io_command(client, sub, 1, 5000, sqe, DOLMEN_NO_DATA, NULL, 1), "FUSE");
    CHECK(dolmen_buffer_free(large) == DOLMEN_OK);
}

/* Another host of the same subsystem. */
static uint32_t another_host(void)
{
    struct dolmen_options options;
    uint32_t other;
    dolmen_options_init(&options);
    options.address = target;
    options.subsystem = subsystem;
    options.host = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-00000000000e";
    options.host_id[15] = 2;
    CHECK(dolmen_connect(client, &options, &other) == DOLMEN_OK);
    CHECK(dolmen_wait_live(client, other, 5000) == DOLMEN_OK);
    return other;
}

static int reserved(struct dolmen_reservation *state, struct dolmen_registrant registrants[2])
{
    state->size = sizeof *state;
    registrants[0].size = sizeof registrants[0];
    return dolmen_reservations(client, sub, 5000, 1, state, registrants, 2);
}

static void reserves(void)
{
    struct dolmen_reservation state;
    struct dolmen_registrant hosts[2];
    uint32_t other = another_host();
    int i, heard = 0;
    const int exclusive = DOLMEN_WRITE_EXCLUSIVE;

    CHECK(reserved(&state, hosts) == 0 && state.registrants == 0 && state.type == DOLMEN_NO_RESERVATION);
    GOOD(dolmen_reservation_register(client, sub, 1, 5000, 1, DOLMEN_REGISTER, 0, 0x11, 0, DOLMEN_PERSIST_YES));
    GOOD(dolmen_reservation_register(client, other, 1, 5000, 1, DOLMEN_REGISTER, 0, 0x22, 0, DOLMEN_PERSIST_UNCHANGED));
    CHECK(done(dolmen_reservation_register(client, sub, 1, 5000, 1, DOLMEN_REPLACE, 5, 0x33, 0, 0)).status != 0);
    GOOD(dolmen_reservation_register(client, sub, 1, 5000, 1, DOLMEN_REPLACE, 5, 0x33, 1, 0));
    GOOD(dolmen_reservation_acquire(client, sub, 1, 5000, 1, DOLMEN_ACQUIRE, exclusive, 0x33, 0));
    CHECK((done(dolmen_reservation_acquire(client, other, 1, 5000, 1, DOLMEN_ACQUIRE, exclusive, 0x22, 0)).status &
           0x7ff) == 0x083);
    CHECK(reserved(&state, hosts) == 2 && state.registrants == 2 && state.type == exclusive && state.persists == 1);
    CHECK(state.generation == 3 && hosts[0].key == 0x33 && hosts[0].holder == 1 && hosts[0].host_id[15] == 1);
    CHECK(hosts[1].key == 0x22 && hosts[1].holder == 0 && hosts[1].host_id[15] == 2);
    CHECK(hosts[1].size == sizeof hosts[1]);

    say("preempt");
    for (i = 0; i < 10 && !heard; i++)
        heard = hear(DOLMEN_NOTICE_EVENT, ALL, 0).value == DOLMEN_EVENT_RESERVATION;
    CHECK(heard);

    /* A buffer of one's own, with room for the first of two registrants. */
    {
        dolmen_buffer *small = dolmen_buffer_new(client, 128), *tiny = dolmen_buffer_new(client, 60);
        REFUSED(dolmen_reservation_report(client, sub, 1, 5000, 1, tiny), "64");
        REFUSED(dolmen_reservation_report(client, sub, 1, 5000, 1, NULL), "NULL");
        GOOD(dolmen_reservation_report(client, sub, 1, 5000, 1, small));
        CHECK(dolmen_reservation_read(client, small, &state, hosts, 2) == 1 && state.registrants == 2);
        CHECK(hosts[0].key == 0x33);
        CHECK(dolmen_reservation_read(client, tiny, &state, hosts, 2) == DOLMEN_FAILED);
        REFUSED(dolmen_reservation_read(client, NULL, &state, hosts, 2), "NULL");
        REFUSED(dolmen_reservation_read(client, small, NULL, hosts, 2), "NULL");
        CHECK(dolmen_reservation_report(client, sub, 1, 5000, 1, small) == DOLMEN_OK);
        CHECK(dolmen_reservation_read(client, small, &state, hosts, 2) == DOLMEN_BUSY);
        GOOD(DOLMEN_OK);
        CHECK(dolmen_buffer_free(small) == DOLMEN_OK && dolmen_buffer_free(tiny) == DOLMEN_OK);
    }
    GOOD(dolmen_reservation_acquire(client, other, 1, 5000, 1, DOLMEN_PREEMPT, DOLMEN_EXCLUSIVE_ACCESS, 0x22, 0x33));
    CHECK(reserved(&state, hosts) == 1 && hosts[0].key == 0x22 && state.type == DOLMEN_EXCLUSIVE_ACCESS);
    GOOD(dolmen_reservation_release(client, other, 1, 5000, 1, DOLMEN_RELEASE, DOLMEN_EXCLUSIVE_ACCESS, 0x22));
    CHECK(reserved(&state, hosts) == 1 && hosts[0].holder == 0 && state.type == DOLMEN_NO_RESERVATION);
    GOOD(dolmen_reservation_release(client, other, 1, 5000, 1, DOLMEN_CLEAR, exclusive, 0x22));
    CHECK(reserved(&state, hosts) == 0 && state.registrants == 0);

    REFUSED(dolmen_reservation_register(client, sub, 1, 0, 1, 3, 0, 1, 0, 0), "dolmen_register_action");
    REFUSED(dolmen_reservation_register(client, sub, 1, 0, 1, 0, 0, 1, 0, 1), "dolmen_persistence");
    REFUSED(dolmen_reservation_acquire(client, sub, 1, 0, 1, -1, 1, 0, 1), "dolmen_acquire_action");
    REFUSED(dolmen_reservation_acquire(client, sub, 1, 0, 1, 0, 7, 0, 1), "dolmen_reservation_type");
    REFUSED(dolmen_reservation_release(client, sub, 1, 0, 1, 2, 1, 0), "dolmen_release_action");
    REFUSED(dolmen_reservation_release(client, sub, 1, 0, 1, 0, 257, 0), "dolmen_reservation_type");
    CHECK(dolmen_disconnect(client, other) == DOLMEN_OK);
}

/* Who does not take notices loses the oldest, and is told so. */
static void misses(void)
{
    struct dolmen_options options;
    struct dolmen_notice notices[2];
    uint32_t gone, i;

    notices[0].size = sizeof notices[0];
    while (dolmen_notices(client, notices, 2) > 0)
        ;
    REFUSED(dolmen_notices(client, NULL, 1), "NULL");
    dolmen_options_init(&options);
    options.address = nobody;
    options.subsystem = subsystem;
    options.host = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-00000000000e";
    options.host_id[15] = 2;
    for (i = 0; i < 1030; i++) {
        CHECK(dolmen_connect(client, &options, &gone) == DOLMEN_OK && dolmen_disconnect(client, gone) == DOLMEN_OK);
        dolmen_client_poll(client);
    }
    CHECK(dolmen_notices(client, notices, 2) == 2);
    CHECK(notices[0].kind == DOLMEN_NOTICE_MISSED && notices[0].subsystem == ALL);
    CHECK(notices[0].value >= 6 && notices[0].value < 16); /* a few are of subsystems that were there before */
    CHECK(notices[1].kind == DOLMEN_NOTICE_STATE && notices[1].value == DOLMEN_CLOSED);
}

int main(int argc, char **argv)
{
    struct dolmen_statistics statistics;
    struct dolmen_notice notice;
    struct dolmen_change change;
    int i;

    CHECK(argc == 6);
    service = argv[1];
    target = argv[2];
    subsystem = argv[3];
    second = argv[4];
    nobody = argv[5];
    client = dolmen_client_new(16u << 20);
    CHECK(client != NULL);
    buffer = dolmen_buffer_new(client, BLOCK);
    CHECK(buffer != NULL);
    discovers();
    connects_in_vain();
    connects();
    hears_of_namespaces();
    counts();
    commands_of_any_kind();
    reserves();
    misses();

    /* What nobody follows any more is not told of, and nobody is connected to. */
    say("hide");
    while (dolmen_discovered_records(client, NULL, 0) == 3)
        turn();
    CHECK(dolmen_end_discovery(client) == DOLMEN_OK);
    change.size = sizeof change;
    CHECK(dolmen_discovery_changes(client, &change, 1) == 0);
    for (i = 0; i < 10; i++)
        dolmen_client_wait(client, 20 * MS);
    say("nobody discovers");

    /* Ended once, and told so once. */
    while (dolmen_notices(client, &notice, 0) > 0 || (notice.size = sizeof notice, dolmen_notices(client, &notice, 1)) > 0)
        ;
    CHECK(dolmen_disconnect(client, sub) == DOLMEN_OK);
    CHECK(hear(DOLMEN_NOTICE_STATE, ALL, 0).value == DOLMEN_CLOSED);
    statistics.size = sizeof statistics;
    while (dolmen_statistics(client, sub, ALL, ALL, ALL, &statistics) != DOLMEN_GONE)
        dolmen_client_wait(client, 10 * MS);
    CHECK(dolmen_notices(client, &notice, 1) == 0);
    CHECK(dolmen_follow_namespaces(client, sub) == DOLMEN_GONE && dolmen_add_path(client, sub, target, 0) == DOLMEN_GONE);
    CHECK(dolmen_verify(client, sub, 1, 0, 1, 0, 1) == DOLMEN_GONE);
    CHECK(dolmen_use_queue(client, 5000, 0) == DOLMEN_GONE && dolmen_paths(client, 5000, NULL, 0) == DOLMEN_GONE);
    dolmen_client_free(client);
    client = NULL;
    if (dolmen_buffer_free(buffer) != DOLMEN_OK)
        return 1;
    say("ok");
    return 0;
}
