//! The NBD door of a core: a second way to the same volumes.

use super::{Core, NBD, post};
use crate::message::Between;
use dolmen_export::{
    Exports, VolumeBackend,
    nbd::{Server, ServerConfig},
};
use dolmen_volume::Reply;
use std::sync::Arc;

impl Core {
    pub(super) fn listen_nbd(&mut self, config: ServerConfig, exports: Arc<Exports>) -> Result<(), String> {
        let mut server = Server::new(config, NBD);
        server.set_exports(&mut self.io, exports);
        let listening = server.start(&mut self.io).map(drop).map_err(|e| e.to_string());
        self.nbd = Some(server);
        listening
    }

    pub(super) fn set_exports(&mut self, exports: Arc<Exports>) {
        if let Some(server) = &mut self.nbd {
            server.set_exports(&mut self.io, exports);
        }
    }

    pub(super) fn take_nbd_reply(&mut self, reply: Reply) {
        if let Some(server) = &mut self.nbd {
            server.on_reply(&mut self.io, VolumeBackend::reply(reply));
        }
    }

    /// Lets the door send, and takes its requests to the volumes, here or elsewhere; true when some are for here, or when it could
    /// do more at once.
    pub(super) fn step_nbd(&mut self) -> bool {
        let Some(server) = &mut self.nbd else { return false };
        server.step(&mut self.io);
        let mut more = server.has_work();
        let backend = VolumeBackend { core: self.id };
        let mut refused = Vec::new();
        for request in server.outputs().drain(..) {
            match backend.request(self.io.now(), request) {
                Ok(request) => match &mut self.volumes {
                    Some(volumes) if request.volume.core == self.id => {
                        volumes.submit(request);
                        more = true;
                    }
                    _ => {
                        let home = request.volume.core;
                        post(&mut self.links, &mut self.backlog, home, Between::Request(request));
                    }
                },
                Err(reply) => refused.push(reply),
            }
        }
        for reply in refused {
            server.on_reply(&mut self.io, reply);
        }
        more
    }

    pub(super) fn nbd_is_drained(&self) -> bool {
        self.nbd.as_ref().is_none_or(Server::is_drained)
    }
}
