//! Our own initiator against the kernel's target in the guest.

use anyhow::{Context, Result};

use super::stage::Stage;
use super::{Needs, Scenario};

pub(crate) const SCENARIOS: &[Scenario] =
    &[Scenario { name: "initiator", needs: Needs::AnyTarget, run: against_the_kernel }];

/// Where the guest's target listens for it, apart from the stand-in's ports: one port for a subsystem of its own, and two
/// that are paths to another.
pub(crate) const GUEST_PORTS: [u16; 3] = [4430, 4431, 4432];

/// The tests against a target that is not ours, of the initiator and of `dolmen bench`; they find it through the environment.
fn against_the_kernel(stage: &mut Stage) -> Result<()> {
    let ports = GUEST_PORTS.map(|port| port.to_string()).join(" ");
    stage.host(&format!("sh /share/target.sh {ports}"), 30)?;
    let address = |at: usize| format!("127.0.0.1:{}", stage.initiator_ports[at]);
    crate::sh::run("cargo")
        // Of the whole workspace, as all tests: what they were built from serves.
        .args(["test", "--quiet", "--workspace", "--test", "kernel", "--", "--ignored"])
        .env("DOLMEN_KERNEL_TARGET", &address(0))
        .env("DOLMEN_KERNEL_PATHS", &format!("{},{}", address(1), address(2)))
        .env("DOLMEN_KERNEL_SUBSYSTEM", "nqn.2014-08.org.example:guest-initiator")
        .dir(crate::root())
        .text()
        .context("the tests against the kernel's target")?;
    Ok(())
}
