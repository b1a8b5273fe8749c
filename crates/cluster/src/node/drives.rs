//! What [`Handle`] does with drives.

use super::{CHANGE_DEADLINE, Handle, stopped};
use crate::{
    Error, Kind,
    plane::{Answer, DriveLocation, NodeRequest, PlaneError},
};
use dolmen_types::{DriveChange, Uuid};

impl Handle {
    /// Takes a drive into the running pool; returns when it is in service.
    pub async fn add_drive(&self, path: String, size_bytes: Option<u64>) -> Result<(), Error> {
        self.command(|answer| NodeRequest::AddDrive { path, size_bytes, answer }).await
    }

    /// Empties a drive, gives it up, or keeps it; returns when that has begun.
    pub async fn change_drive(&self, drive: Uuid, change: DriveChange) -> Result<(), Error> {
        self.command(|answer| NodeRequest::ChangeDrive { drive, change, answer }).await
    }

    /// Tells where a drive is, and lets its light blink or not.
    pub async fn locate_drive(&self, drive: Uuid, light: Option<bool>) -> Result<DriveLocation, Error> {
        self.command(|answer| NodeRequest::LocateDrive { drive, light, answer }).await
    }

    /// Says how re-protection goes on.
    pub async fn set_reprotection(
        &self,
        paused: Option<bool>,
        bytes_per_s: Option<u64>,
    ) -> Result<(), Error> {
        self.command(|answer| NodeRequest::SetReprotection { paused, bytes_per_s, answer }).await
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(Answer<Result<T, PlaneError>>) -> NodeRequest,
    ) -> Result<T, Error> {
        let asked = self.plane.send(make)?;
        match tokio::time::timeout(CHANGE_DEADLINE, asked).await {
            Ok(Ok(Err(PlaneError::NotFound))) => {
                Err(Error::new(Kind::NotFound, "the pool has no such drive"))
            }
            Ok(Ok(answer)) => Ok(answer?),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(Error::new(
                Kind::DeadlineExceeded,
                "the drives take long; what was asked for may still come, look again later",
            )),
        }
    }
}
