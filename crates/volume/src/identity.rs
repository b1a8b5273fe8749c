//! Who a node is to its hosts: a record in the log, so that drives alone are enough to be found again under the same names.
//!
//! Written by the opening of group 0, once: a data folder that has not served the pool before never replaces what is there.

use crate::codec::{DecodeError, Reader, put_text};
use dolmen_types::Uuid;

const VERSION: u16 = 1;

/// Names and ids that hosts and clients know a node by. Texts of at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster.
    pub cluster_uuid: Uuid,
    /// The node.
    pub node_uuid: Uuid,
    /// The machine.
    pub server_uuid: Uuid,
    /// Name of the cluster, for people.
    pub cluster_name: String,
    /// Name of the node, for people.
    pub node_name: String,
    /// Name of the NVM subsystem.
    pub subsystem_nqn: String,
    /// Serial number of the subsystem.
    pub serial: String,
}

impl NodeIdentity {
    /// The record's bytes.
    ///
    /// # Panics
    /// When a text is longer than 255 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for uuid in [self.cluster_uuid, self.node_uuid, self.server_uuid] {
            out.extend_from_slice(&uuid.0);
        }
        for text in [&self.cluster_name, &self.node_name, &self.subsystem_nqn, &self.serial] {
            put_text(&mut out, text);
        }
        out
    }
}

/// What a record's bytes say.
pub(crate) fn decode(bytes: &[u8]) -> Result<NodeIdentity, DecodeError> {
    let mut r = Reader(bytes);
    match r.u16()? {
        VERSION => {}
        version => return Err(DecodeError::Newer { version }),
    }
    let identity = NodeIdentity {
        cluster_uuid: Uuid(r.array()?),
        node_uuid: Uuid(r.array()?),
        server_uuid: Uuid(r.array()?),
        cluster_name: r.text()?.into(),
        node_name: r.text()?.into(),
        subsystem_nqn: r.text()?.into(),
        serial: r.text()?.into(),
    };
    r.end()?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_bad_ones() {
        let identity = NodeIdentity {
            cluster_uuid: Uuid([1; 16]),
            node_uuid: Uuid([2; 16]),
            server_uuid: Uuid([3; 16]),
            cluster_name: "c".into(),
            node_name: "node".into(),
            subsystem_nqn: "nqn.x".into(),
            serial: "S1".into(),
        };
        let golden = [&[1, 0][..], &[1; 16], &[2; 16], &[3; 16], b"\x01c\x04node\x05nqn.x\x02S1"].concat();
        assert_eq!(identity.encode(), golden);
        assert_eq!(decode(&golden), Ok(identity));
        for cut in 0..golden.len() {
            assert!(decode(&golden[..cut]).is_err());
        }
        assert!(decode(&[&golden[..], &[0]].concat()).is_err());
        let newer = [&[2, 0], &golden[2..]].concat();
        assert_eq!(decode(&newer), Err(DecodeError::Newer { version: 2 }));
    }
}
