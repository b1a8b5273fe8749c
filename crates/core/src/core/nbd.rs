//! The NBD door of a core: a second way to the same volumes.

use super::{Core, NBD, post};
use crate::message::Between;
use dolmen_export::{
    Exports, VolumeBackend,
    nbd::{Envelope, Message, Server, ServerConfig},
};
use dolmen_volume::Reply;
use std::sync::Arc;

impl Core {
    pub(super) fn listen_nbd(&mut self, config: ServerConfig, exports: Arc<Exports>) -> Result<(), String> {
        let cores = u16::try_from(self.cores).expect("cores are numbered in 16 bits");
        let mut server = Server::new(ServerConfig { core: self.id, cores, ..config }, NBD);
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

    /// A message of another core's door.
    pub(super) fn take_nbd_message(&mut self, message: Message) {
        match &mut self.nbd {
            Some(server) => server.on_message(&mut self.io, message),
            None => self.post_nbd(message.answer_of_nobody()),
        }
    }

    fn post_nbd(&mut self, messages: impl IntoIterator<Item = Envelope>) {
        for Envelope { to, message } in messages {
            post(&mut self.links, &mut self.backlog, to, Between::Nbd(message));
        }
    }

    /// Lets the door send, and takes its requests to the volumes, here or elsewhere; true when some are for here, or when it could
    /// do more at once.
    pub(super) fn step_nbd(&mut self) -> bool {
        let Some(server) = &mut self.nbd else { return false };
        server.step(&mut self.io);
        let mut more = server.has_work();
        let backend = VolumeBackend { core: self.id };
        let outputs = server.outputs();
        let called_off = std::mem::take(&mut outputs.called_off);
        let messages = std::mem::take(&mut outputs.messages);
        let mut refused = Vec::new();
        for request in outputs.requests.drain(..) {
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
        // Behind the requests, and before others hear that their client is gone.
        if !called_off.is_empty() {
            more |= self.call_off(&called_off, None);
        }
        self.post_nbd(messages);
        more
    }

    pub(super) fn nbd_is_drained(&self) -> bool {
        self.nbd.as_ref().is_none_or(Server::is_drained)
    }
}
