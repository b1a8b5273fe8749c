//! What a core does when drives come and go while it serves.

use super::Core;
use crate::message::{Answer, OpenedDrive, ToCore};
use dolmen_io::{DriveInfo, OpenDrive};
use dolmen_types::{DriveChange, Uuid};

impl Core {
    /// A command that is about one drive, or about keys; the caller passes no other.
    pub(super) fn take_drive_command(&mut self, command: ToCore) {
        match command {
            ToCore::TakeDrive { drive, answer } => answer.send(self.take_drive(drive)),
            ToCore::PrepareDrive { drive, answer } => {
                let Some(owner) = &self.owner else { return };
                let mut seed = [0; 32];
                self.io.random(&mut seed);
                let preparing = dolmen_store::prepare_drive(self.exec.handle(), drive, owner.join_to(seed));
                // Without room for the task the answer's sender is dropped, and with it the request.
                let _ = self.exec.handle().spawn(async move { answer.send(preparing.await) });
            }
            ToCore::AttachDrive { uuid, drive, answer } => answer.send(self.attach(uuid, &drive)),
            ToCore::JoinDrive { drive, answer } => {
                let behind = self.keeper.as_ref().and_then(|keeper| keeper.is_behind(drive.file()));
                let joining = match (&mut self.owner, behind) {
                    (_, Some(why)) => Err(format!("it did not take a change of the key table: {why}")),
                    (Some(owner), None) => owner.add_drive(drive),
                    (None, None) => Err("the pool is not open".into()),
                };
                match joining {
                    Ok(()) => self.waiting.joined = Some(answer),
                    Err(why) => answer.send(Err(why)),
                }
            }
            ToCore::DriveJoined { uuid, place, answer } => {
                self.drive_joined(uuid, place);
                answer.send(());
            }
            ToCore::CloseFile { file, answer } => {
                self.io.close_drive(file);
                answer.send(());
            }
            ToCore::InfoOf { place, answer } => {
                answer.send(self.infos.get(usize::from(place)).cloned().flatten());
            }
            ToCore::CloseDrive { place, answer } => answer.send(self.close_drive(place)),
            ToCore::ChangeDrive { place, change, answer } => self.change_drive(place, change, answer),
            other => self.take_key_command(other),
        }
    }

    pub(super) fn open_drive(&mut self, drive: &OpenDrive) -> Result<OpenedDrive, String> {
        let info = self.io.open_drive(drive).map_err(|e| super::control::describe(drive, &e))?;
        let handle = self.io.export_drive(info.file).map_err(|e| e.to_string())?;
        Ok(OpenedDrive { info, handle })
    }

    fn take_drive(&mut self, mut drive: OpenedDrive) -> Result<OpenedDrive, String> {
        drive.info.file = self.io.share_drive(&drive.handle).map_err(|e| e.to_string())?;
        Ok(drive)
    }

    fn attach(&mut self, uuid: Uuid, drive: &OpenedDrive) -> Result<(), String> {
        let file = match self.id.0 {
            0 => drive.info.file,
            _ => self.io.share_drive(&drive.handle).map_err(|e| e.to_string())?,
        };
        self.attached.push((uuid, DriveInfo { file, ..drive.info.clone() }));
        if let Some(store) = &mut self.store {
            store.attach_drive(uuid, file);
        }
        Ok(())
    }

    fn drive_joined(&mut self, uuid: Uuid, place: Option<u16>) {
        let Some(at) = self.attached.iter().position(|(other, _)| *other == uuid) else { return };
        let (_, info) = self.attached.swap_remove(at);
        self.keys_joined(info.file, place);
        let Some(place) = place.map(usize::from) else { return self.io.close_drive(info.file) };
        let len = self.files.len().max(place + 1);
        self.files.resize(len, None);
        self.infos.resize(len, None);
        self.files[place] = Some(info.file);
        self.infos[place] = Some(info);
    }

    /// Closes a drive that is out or gone, so that it can be pulled, or opened anew. False while something is under way on it.
    fn close_drive(&mut self, place: u16) -> bool {
        let index = usize::from(place);
        let Some(file) = self.files.get(index).copied().flatten() else { return true };
        if self.io.drive_counters(file).inflight > 0 {
            return false;
        }
        self.leave_keys(file);
        self.files[index] = None;
        if let Some(info) = self.infos.get_mut(index) {
            *info = None;
        }
        if let Some(owner) = &mut self.owner {
            owner.detach_drive(place);
        }
        if let Some(store) = &mut self.store {
            store.detach_drive(place);
        }
        self.io.close_drive(file);
        true
    }

    fn change_drive(&mut self, place: u16, change: DriveChange, answer: Answer<Result<(), String>>) {
        let Some(owner) = &mut self.owner else { return };
        let done = match change {
            DriveChange::Remove => owner.remove_drive(place),
            DriveChange::ForceOut => owner.force_out(place, "given up by an operator".into()),
            DriveChange::Keep if owner.keep_drive(place) => Ok(()),
            DriveChange::Keep => Err("it is not being removed".into()),
        };
        answer.send(done);
    }

    /// Tells what has come of a drive that was to join.
    pub(super) fn watch_joining(&mut self) {
        if self.waiting.joined.is_none() {
            return;
        }
        let Some(owner) = &mut self.owner else { return };
        let Some(outcome) = owner.take_joined() else { return };
        let drives = owner.drives();
        let place = |uuid| drives.iter().position(|d| d.uuid == uuid).and_then(|i| u16::try_from(i).ok());
        if let Some(answer) = self.waiting.joined.take() {
            answer.send(outcome.and_then(|uuid| place(uuid).ok_or_else(|| "it is gone again".into())));
        }
    }
}
