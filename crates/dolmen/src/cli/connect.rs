//! `dolmen connect-help`: the exact commands for a host, once and for every boot.

use super::{
    client::{Client, operand},
    error::CliError,
    output::{Output, text, texts},
    volume,
};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

pub(crate) fn help(client: &Client, output: &Output, name: &str) -> Result<(), CliError> {
    let seen = volume::fetch(client, name)?;
    let info = client.get("/api/v2/clusterinfo")?;
    let endpoint = |key: &str| chosen(&texts(&info[key]));
    let (Some(data), Some(discovery)) = (endpoint("nvmeEndpoints"), endpoint("discoveryEndpoints")) else {
        return Err(CliError::new(super::error::Exit::Failed, "the node tells no address for hosts"));
    };
    let steps = Steps {
        address: data.ip(),
        port: data.port(),
        discovery_port: discovery.port(),
        subsystem: text(&info, "subsystemNQN"),
        device: format!("/dev/disk/by-id/nvme-uuid.{}", text(&seen, "UUID")),
    };
    let value = json!({
        "volume": text(&seen, "name"),
        "admitted": texts(&seen["acl"]["values"]),
        "device": steps.device,
        "once": steps.once(),
        "everyBoot": steps.every_boot(),
        "disconnect": steps.disconnect(),
    });
    let allow = client.suggest(&format!("volume allow {}", operand(&text(&seen, "name"), " NQN")));
    output.put(&value, |_| page(&seen, &steps, &allow))
}

/// The address that serves most hosts: one that is not loopback, where the node tells one.
fn chosen(endpoints: &[String]) -> Option<SocketAddr> {
    let all: Vec<SocketAddr> = endpoints.iter().filter_map(|text| text.parse().ok()).collect();
    all.iter().find(|at| !at.ip().is_loopback()).or(all.first()).copied()
}

/// What the commands are made from.
struct Steps {
    address: IpAddr,
    port: u16,
    discovery_port: u16,
    subsystem: String,
    device: String,
}

impl Steps {
    fn once(&self) -> Vec<String> {
        vec![
            "modprobe nvme-tcp".into(),
            format!("nvme connect -t tcp -a {} -s {} -n {}", self.address, self.port, self.subsystem),
            format!("ls -l {}", self.device),
        ]
    }

    fn every_boot(&self) -> Vec<String> {
        vec![
            "echo nvme-tcp > /etc/modules-load.d/nvme-tcp.conf".into(),
            format!(
                "echo '-t tcp -a {} -s {}' >> /etc/nvme/discovery.conf",
                self.address, self.discovery_port
            ),
            "systemctl enable nvmf-autoconnect.service".into(),
            "systemctl start nvmf-autoconnect.service".into(),
        ]
    }

    fn disconnect(&self) -> Vec<String> {
        vec![format!("nvme disconnect -n {}", self.subsystem)]
    }
}

/// The page for people; `allow` is the command that admits a host.
fn page(seen: &Value, steps: &Steps, allow: &str) -> String {
    let name = text(seen, "name");
    let indented =
        |commands: Vec<String>| -> String { commands.iter().map(|c| format!("  {c}\n")).collect() };
    let mut page = String::new();
    let hosts = texts(&seen["acl"]["values"]);
    match hosts.as_slice() {
        [word] if word == "ALLOW_NONE" => page.push_str(&format!(
            "Nobody is admitted to volume '{name}' yet. On the host:\n  cat /etc/nvme/hostnqn\nand here, with what it \
             says:\n  {allow}\n\n"
        )),
        [word] if word == "ALLOW_ANY" => page.push_str(&format!("Every host is admitted to volume '{name}'.\n\n")),
        hosts => page.push_str(&format!(
            "Admitted to volume '{name}' (the host's /etc/nvme/hostnqn must say one of them):\n  {}\n\n",
            hosts.join("\n  ")
        )),
    }
    if steps.address.is_loopback() {
        page.push_str(&format!(
            "The commands hold for a host on this very machine. On another one, write an address of this machine in \
             the place of {}\n(or start the daemon with --advertise IP, and the right one stands here).\n\n",
            steps.address
        ));
    }
    page.push_str("Connect now (as root, on the host; needs the package nvme-cli):\n");
    page.push_str(&indented(steps.once()));
    page.push_str(&format!("\nThe volume is then {}\n", steps.device));
    page.push_str("\nConnect at every boot:\n");
    page.push_str(&indented(steps.every_boot()));
    page.push_str(&format!(
        "A file system on it stands in /etc/fstab with the option _netdev:\n  {} /mnt ext4 defaults,_netdev,nofail 0 0\n",
        steps.device
    ));
    page.push_str("\nDisconnect:\n");
    page.push_str(&indented(steps.disconnect()));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(address: &str) -> Steps {
        Steps {
            address: address.parse().unwrap(),
            port: 4420,
            discovery_port: 8009,
            subsystem: "nqn.2016-01.com.lightbitslabs:uuid:x".into(),
            device: "/dev/disk/by-id/nvme-uuid.u".into(),
        }
    }

    #[test]
    fn an_address_for_other_machines_is_preferred() {
        let of = |all: &[&str]| chosen(&all.iter().map(|at| (*at).into()).collect::<Vec<_>>());
        assert_eq!(of(&["127.0.0.1:1", "192.0.2.1:1"]), of(&["192.0.2.1:1"]));
        assert_eq!(of(&["[::1]:1"]).unwrap().to_string(), "[::1]:1");
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn the_page_says_who_where_and_how() {
        let nobody = json!({"name": "v", "acl": {"values": ["ALLOW_NONE"]}});
        let text = page(&nobody, &steps("127.0.0.1"), "dolmen volume allow v NQN");
        assert!(text.contains("dolmen volume allow v NQN") && text.contains("this very machine"));
        let one = json!({"name": "v", "acl": {"values": ["nqn.2014-08.org.nvmexpress:a"]}});
        let text = page(&one, &steps("2001:db8::1"), "");
        for wanted in [
            "modprobe nvme-tcp",
            "nvme connect -t tcp -a 2001:db8::1 -s 4420 -n nqn.2016-01.com.lightbitslabs:uuid:x",
            "'-t tcp -a 2001:db8::1 -s 8009' >> /etc/nvme/discovery.conf",
            "nvmf-autoconnect.service",
            "/dev/disk/by-id/nvme-uuid.u",
            "_netdev",
            "nqn.2014-08.org.nvmexpress:a",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
        assert!(!text.contains("this very machine"));
    }
}
