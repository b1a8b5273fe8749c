//! Finding, connecting, identity, access: what happens before the first block is read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::brick::Volume;
use super::stage::Stage;
use super::{Needs, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "discovery", needs: Needs::AnyTarget, run: discovery },
    Scenario { name: "connect", needs: Needs::AnyTarget, run: connect_matrix },
    Scenario { name: "identity", needs: Needs::AnyTarget, run: identity },
    Scenario { name: "reports", needs: Needs::Daemon, run: reports },
    Scenario { name: "stranger", needs: Needs::Daemon, run: stranger },
    Scenario { name: "resize", needs: Needs::Daemon, run: resize },
    Scenario { name: "idle", needs: Needs::Daemon, run: idle },
];

/// Discovery on its own port and on the data port names the subsystem and where it is to be had; connect-all
/// acts on it.
fn discovery(stage: &mut Stage) -> Result<()> {
    for (port, digests) in [(stage.brick.discovery_port, ""), (stage.brick.port, "-g -G")] {
        let script = format!(
            "nvme discover -t tcp -a $ADDRESS -s {port} -q $HOST -I $HOST_ID {digests} -o json || fail discover"
        );
        let text = stage.host(&script, 30)?;
        let log: Value =
            serde_json::from_str(&text).with_context(|| format!("discovery printed:\n{text}"))?;
        let records = log["records"].as_array().context("a discovery log without records")?;
        let wanted = stage.brick.port.to_string();
        let found = records.iter().any(|record| {
            record["subnqn"] == *stage.brick.subsystem
                && record["trtype"] == "tcp"
                && record["trsvcid"] == *wanted
                && record["traddr"] == stage.brick.address
        });
        ensure!(found, "port {port}: no record leads to {}:{wanted}:\n{text}", stage.brick.address);
    }
    let uuid = stage.brick.uuid(Volume::Raw).to_owned();
    let script = format!(
        "nvme connect-all -t tcp -a $ADDRESS -s $DISCOVERY_PORT -q $HOST -I $HOST_ID || fail connect-all\n\
         await_disk {uuid}\nnvme disconnect-all"
    );
    stage.host(&script, 30)?;
    Ok(())
}

/// Every combination of digests, with one queue and with two, moves data both ways; one of the sessions is
/// captured, and tshark finds nothing wrong with it.
fn connect_matrix(stage: &mut Stage) -> Result<()> {
    let uuid = stage.brick.uuid(Volume::Raw).to_owned();
    let (port, interface) = (stage.brick.port, stage.brick.interface);
    let script = format!(
        "tcpdump -i {interface} -s 0 -B 65536 -Z root -w /run/connect.pcap tcp port {port} 2>/share/tcpdump.log &\n\
         tcpdump=$!\n\
         wait_for 10 grep -q listening /share/tcpdump.log\n\
         dd if=/dev/urandom of=/run/data bs=64k count=4 2>/dev/null\n\
         for digests in '' -g -G '-g -G'; do for queues in 1 2; do\n\
             connect $queues $digests\n\
             disk=$(await_disk {uuid}) || fail no disk\n\
             for offset in 0 7; do\n\
                 dd if=/run/data of=/dev/$disk bs=64k seek=$offset oflag=direct conv=fsync 2>/dev/null || fail write\n\
                 dd if=/dev/$disk of=/run/back bs=64k skip=$offset count=4 iflag=direct 2>/dev/null || fail read\n\
                 cmp /run/data /run/back || fail \"data differ: $digests, $queues queues\"\n\
             done\n\
             [ $(cat /sys/class/nvme/nvme*/queue_count) = $((queues + 1)) ] || fail queues\n\
             disconnect\n\
         done; done\n\
         no_io_errors\n\
         sleep 0.5\n\
         kill $tcpdump; wait $tcpdump; cat /share/tcpdump.log\n\
         mv /run/connect.pcap /share/\n"
    );
    let output = stage.host(&script, 120)?;
    let capture: PathBuf = stage.guest.share().join("connect.pcap");
    let dropped = output.lines().find(|line| line.ends_with("dropped by kernel")).unwrap_or_default();
    ensure!(dropped.starts_with("0 "), "the capture is not whole: {output}");
    wire_is_clean(&capture, port)
}

/// tshark finds no malformed PDU, no wrong digest, and enough PDUs to mean something.
fn wire_is_clean(capture: &Path, port: u16) -> Result<()> {
    let count = |filter: &str| -> Result<Vec<String>> {
        let mut command = crate::golden::tshark(capture, &[port]);
        let output = command
            .args(["-Y", filter, "-T", "fields", "-e", "frame.number", "-e", "_ws.col.Info"])
            .output()
            .context("starting tshark")?;
        ensure!(output.status.success(), "tshark failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    };
    let all = count("nvme-tcp")?;
    ensure!(all.len() > 500, "tshark saw only {} packets of NVMe/TCP", all.len());
    // Status 0 is "bad" in tshark's checksum enumeration.
    let wrong = count("_ws.malformed || nvme-tcp.hdgst.status == 0 || nvme-tcp.ddgst.status == 0")?;
    if !wrong.is_empty() {
        bail!(
            "tshark objects to {} packets, first:\n{}",
            wrong.len(),
            wrong[..wrong.len().min(5)].join("\n")
        );
    }
    Ok(())
}

/// The names a host knows a volume by, and its geometry.
fn identity(stage: &mut Stage) -> Result<()> {
    for volume in Volume::ALL {
        let uuid = stage.brick.uuid(volume).to_owned();
        let script = format!(
            "connect 1\n\
             disk=$(await_disk {uuid}) || fail \"no disk with wwid uuid.{uuid}: $(cat /sys/block/nvme*n*/wwid)\"\n\
             cd /sys/block/$disk\n\
             cat wwid uuid nguid queue/logical_block_size size queue/discard_max_bytes\n\
             disconnect\n"
        );
        let output = stage.host(&script, 30)?;
        let lines: Vec<&str> = output.lines().map(str::trim).collect();
        let [wwid, kernel_uuid, nguid, block, sectors, discard] = lines[..] else {
            bail!("expected six lines:\n{output}");
        };
        ensure!(wwid == format!("uuid.{uuid}") && kernel_uuid == uuid, "{wwid}, {kernel_uuid}: not {uuid}");
        ensure!(nguid.replace('-', "") == uuid.replace('-', ""), "NGUID {nguid} is not the UUID {uuid}");
        ensure!(block == volume.block_bytes().to_string(), "{}: blocks of {block}", volume.name());
        ensure!(sectors == "2097152", "{}: {sectors} sectors are not 1 GiB", volume.name());
        ensure!(discard != "0", "{}: TRIM is not offered", volume.name());
    }
    Ok(())
}

/// What nvme-cli can ask of a controller that does all it should, without one refusal.
fn reports(stage: &mut Stage) -> Result<()> {
    let uuid = stage.brick.uuid(Volume::Raw).to_owned();
    let script = format!(
        "connect 1\n\
         disk=$(await_disk {uuid}) || fail no disk\n\
         nsid=$(nvme get-ns-id /dev/$disk | sed 's/.*://')\n\
         c=/dev/nvme0\n\
         ask() {{ timeout 20 nvme \"$@\" >/run/answer 2>&1 || {{ echo \"nvme $*:\"; head -n 3 /run/answer; failed=1; }}; }}\n\
         ask id-ctrl $c; ask id-ns $c -n $nsid; ask ns-descs $c -n $nsid\n\
         ask list-ns $c; ask list-ctrl $c; ask list-ctrl $c -n $nsid; ask list-subsys\n\
         ask list-ns $c --csi=0; ask nvm-id-ctrl $c; ask nvm-id-ns $c -n $nsid; ask cmdset-ind-id-ns $c -n $nsid\n\
         ask smart-log $c; ask error-log $c; ask fw-log $c; ask changed-ns-list-log $c\n\
         ask effects-log $c --csi=0; ask ana-log $c; ask ana-log $c -g; ask supported-log-pages $c\n\
         ask fid-support-effects-log $c; ask mi-cmd-support-effects-log $c; ask resv-notif-log $c\n\
         for feature in 2 4 5 7 0xb 0xf; do ask get-feature $c -f $feature; done\n\
         for feature in 5 0x82 0x83; do ask get-feature $c -n $nsid -f $feature; done\n\
         ask set-feature $c -n $nsid -f 0x83 -v 1; nvme get-feature $c -n $nsid -f 0x83 | grep -q 'value:0*x*0*1$' || fail persistence\n\
         ask get-feature $c -f 0x81 -l 16 -c 1\n\
         for offset in 0x0 0x8 0x14 0x1c; do ask get-property $c --offset=$offset; done\n\
         dd if=/dev/urandom of=/run/block bs=4096 count=1 2>/dev/null\n\
         ask write /dev/$disk -s 0 -c 0 -z 4096 -d /run/block\n\
         ask compare /dev/$disk -s 0 -c 0 -z 4096 -d /run/block\n\
         ask flush /dev/$disk -n $nsid\n\
         ask verify /dev/$disk -s 0 -c 0\n\
         ask copy /dev/$disk --sdlba=8 --slbs=0 --blocks=0\n\
         ask compare /dev/$disk -s 8 -c 0 -z 4096 -d /run/block\n\
         ask write-zeroes /dev/$disk -s 0 -c 0\n\
         ask dsm /dev/$disk --ad --slbs=8 --blocks=1\n\
         ask resv-register /dev/$disk -n $nsid --nrkey=0x1122 --rrega=0\n\
         ask resv-acquire /dev/$disk -n $nsid --crkey=0x1122 --rtype=1 --racqa=0\n\
         ask resv-report /dev/$disk -n $nsid --eds\n\
         ask resv-release /dev/$disk -n $nsid --crkey=0x1122 --rtype=1 --rrela=0\n\
         ask resv-register /dev/$disk -n $nsid --crkey=0x1122 --rrega=1\n\
         [ -z \"$failed\" ] || fail refusals\n\
         counts() {{ nvme smart-log $c | grep -q 'host_write_commands.*[1-9]'; }}\n\
         wait_for 10 counts\n\
         nvme compare /dev/$disk -s 8 -c 0 -z 4096 -d /run/block >/dev/null 2>&1 && fail 'compare found no difference'\n\
         ask reset $c\n\
         wait_for 20 grep -q live /sys/class/nvme/nvme0/state\n\
         disconnect\n"
    );
    stage.host(&script, 120)?;
    Ok(())
}

/// A host that no volume admits may connect, and sees nothing until it is admitted.
fn stranger(stage: &mut Stage) -> Result<()> {
    const STRANGER: &str = "nqn.2014-08.org.nvmexpress:uuid:0d5f1c1e-aaaa-4bbb-8ccc-00000000dead";
    let as_stranger = format!("HOST={STRANGER}\nHOST_ID=0d5f1c1e-aaaa-4bbb-8ccc-00000000dead\n");
    let script = format!(
        "{as_stranger}connect 1\n\
         sleep 2\n\
         no_disks || fail \"a stranger sees $(disks)\"\n\
         nvme list-ns /dev/nvme0 >/run/list || fail list-ns\n\
         [ -s /run/list ] && fail \"a stranger lists $(cat /run/list)\"\n\
         true"
    );
    stage.host(&script, 30)?;
    let name = Volume::Raw.name();
    let uuid = stage.brick.uuid(Volume::Raw).to_owned();
    stage.brick.daemon()?.cli(&["volume", "allow", name, STRANGER])?;
    stage.host(&format!("await_disk {uuid} || fail 'admitted, yet nothing came'"), 30)?;
    stage.brick.daemon()?.cli(&["volume", "deny", name, STRANGER])?;
    stage.host("wait_for 15 no_disks\ndisconnect", 40)?;
    Ok(())
}

/// A volume grows under a connected host.
fn resize(stage: &mut Stage) -> Result<()> {
    let uuid = stage.brick.uuid(Volume::Raw).to_owned();
    stage.host(&format!("connect 2\nawait_disk {uuid}"), 30)?;
    stage.brick.daemon()?.cli(&["volume", "resize", Volume::Raw.name(), "--size", "2GiB"])?;
    let script = format!(
        "disk=$(await_disk {uuid})\n\
         has_grown() {{ [ $(cat /sys/block/$disk/size) = 4194304 ]; }}\n\
         wait_for 15 has_grown\n\
         dd if=/dev/urandom of=/run/data bs=64k count=1 2>/dev/null\n\
         dd if=/run/data of=/dev/$disk bs=64k seek=32767 oflag=direct 2>/dev/null || fail 'write into the new part'\n\
         dd if=/dev/$disk of=/run/back bs=64k skip=32767 iflag=direct 2>/dev/null || fail 'read of the new part'\n\
         cmp /run/data /run/back || fail 'the new part forgets'\n\
         no_io_errors\ndisconnect\n"
    );
    stage.host(&script, 60)?;
    Ok(())
}

/// With a host connected and nothing to do, the daemon sleeps: under two hundredths of a core.
fn idle(stage: &mut Stage) -> Result<()> {
    const WATCHED: Duration = Duration::from_secs(5);
    let uuid = stage.brick.uuid(Volume::Raw).to_owned();
    let script =
        format!("connect 2\ndd if=/dev/$(await_disk {uuid}) of=/dev/null bs=64k count=64 iflag=direct");
    stage.host(&script, 30)?;
    // Time for the polling to give way.
    std::thread::sleep(Duration::from_secs(10));
    let before = stage.brick.daemon()?.cpu_ticks()?;
    std::thread::sleep(WATCHED);
    let used_ms = (stage.brick.daemon()?.cpu_ticks()? - before) * 10;
    let allowed_ms = WATCHED.as_millis() * 2 / 100;
    ensure!(u128::from(used_ms) < allowed_ms, "an idle daemon used {used_ms} ms of {WATCHED:?}");
    stage.host("no_io_errors\ndisconnect", 30)?;
    Ok(())
}
