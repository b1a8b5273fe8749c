//! Rotations that do not come through, from passphrase to passphrase, over a key table of which a page can't be written.

use super::*;
use dolmen_io::{Inbox, Wake, inbox};
use dolmen_security::Secret;
use std::{fs, path::PathBuf, pin::pin, sync::LazyLock};

const POOL: Uuid = Uuid([7; 16]);

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

fn phrase(number: usize) -> String {
    format!("correct horse battery {number}")
}

/// The key that follows from it, which takes its time.
fn key(number: usize) -> ClusterKey {
    static KEYS: LazyLock<[ClusterKey; 4]> = LazyLock::new(|| {
        std::array::from_fn(|n| {
            ClusterKey::from_passphrase(&Secret::new(phrase(n).into_bytes()), &POOL.0).unwrap()
        })
    });
    KEYS[number].clone()
}

/// The files of a node, and core 0 with a key table that has a page for each key.
struct Scene {
    folder: tempfile::TempDir,
    keys: ClusterKeys,
    talk: Talk,
    inbox: Inbox<ToCore>,
    table: Vec<WrappedKey>,
    /// The page that can't be written.
    bad: Option<usize>,
    /// What somebody puts into `FILE.new` while keys are wrapped anew.
    meanwhile: Option<usize>,
}

impl Scene {
    /// A table of three keys under the first passphrase.
    async fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let (sender, inbox) = inbox(8, Arc::new(Nobody));
        let wrap = |line| WrappedKey {
            line: LineId(line),
            pg: PgId(0),
            cluster_key: key(1).id(),
            wrapped: key(1).wrap(&[3; 32]),
        };
        let keys = ClusterKeys::new(KeySource::Given(key(1)));
        let (table, bad, meanwhile) = ((1..4).map(wrap).collect(), None, None);
        let mut scene = Scene { folder, keys, talk: Talk::new(vec![sender]), inbox, table, bad, meanwhile };
        scene.put("FILE", 1);
        scene.start().await.unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, number: usize) {
        fs::write(self.path(name), phrase(number)).unwrap();
    }

    fn holds(&self, name: &str, number: usize) -> bool {
        fs::read_to_string(self.path(name)).is_ok_and(|text| text == phrase(number))
    }

    /// Which passphrases the keys of the table are under.
    fn under(&self) -> Vec<usize> {
        let number = |id: [u8; 16]| (1..4).find(|&n| key(n).id() == id).unwrap();
        self.table.iter().map(|key| number(key.cluster_key)).collect()
    }

    /// The node starts, with what lies in the files.
    async fn start(&mut self) -> Result<(), ServeError> {
        let keys = ClusterKeys::new(KeySource::Passphrase(PassphraseFiles::at(&self.path("FILE"))));
        assert_eq!(keys.unlock(POOL, &self.table).await?.len(), self.table.len());
        let talk = self.talk.clone();
        self.serve(keys.settle(&talk)).await;
        self.keys = keys;
        Ok(())
    }

    async fn rotate(&mut self) -> Result<(), PlaneError> {
        let keys = std::mem::replace(&mut self.keys, ClusterKeys::new(KeySource::Given(key(1))));
        let (keys, talk) = (Arc::new(keys), self.talk.clone());
        let rotated = self.serve(keys.rotate(&talk)).await;
        self.keys = Arc::into_inner(keys).unwrap();
        rotated
    }

    /// Answers as core 0 does until this has ended.
    async fn serve<T>(&mut self, asking: impl Future<Output = T>) -> T {
        let mut asking = pin!(asking);
        loop {
            tokio::select! {
                biased;
                done = &mut asking => return done,
                () = tokio::task::yield_now() => {}
            }
            let mut asked = Vec::new();
            self.inbox.drain(&mut asked);
            for command in asked {
                match command {
                    ToCore::RewrapKeys { to, rewrap, answer } => answer.send(self.rewrap(to, rewrap)),
                    _ => panic!("nothing else is asked"),
                }
            }
        }
    }

    fn rewrap(
        &mut self,
        to: [u8; 16],
        rewrap: impl Fn(&WrappedKey) -> Option<[u8; 40]>,
    ) -> Result<(), StoreError> {
        if let Some(number) = self.meanwhile.take() {
            self.put("FILE.new", number);
        }
        for (page, key) in self.table.iter_mut().enumerate().filter(|(_, key)| key.cluster_key != to) {
            let wrapped = rewrap(key).ok_or(StoreError::NoKey(key.line))?;
            if self.bad == Some(page) {
                return Err(StoreError::Drive("a bad sector".into()));
            }
            (key.cluster_key, key.wrapped) = (to, wrapped);
        }
        Ok(())
    }
}

fn text(result: Result<(), PlaneError>) -> String {
    result.unwrap_err().to_string()
}

/// What a rotation that failed midway rotates to is not forgotten for another passphrase, by the node or by its next start.
#[tokio::test]
async fn a_rotation_has_one_successor() {
    let mut scene = Scene::new().await;
    scene.put("FILE.new", 2);
    scene.bad = Some(1);
    let why = text(scene.rotate().await);
    assert!(why.contains("a bad sector") && why.contains("FILE.new as they are"), "{why}");
    assert_eq!(scene.under(), [2, 1, 1]);
    // Another one.
    scene.put("FILE.new", 3);
    scene.bad = None;
    let why = text(scene.rotate().await);
    assert!(why.contains(&hex(&key(2).id())) && why.contains("FILE.new"), "{why}");
    assert_eq!(scene.under(), [2, 1, 1]);
    assert!(scene.holds("FILE", 1) && scene.holds("FILE.new", 3));
    let why = scene.start().await.unwrap_err().to_string();
    assert!(why.contains(&hex(&key(2).id())) && why.contains("FILE.new"), "{why}");
    // The right one, and a start that can't go on with it, yet.
    scene.put("FILE.new", 2);
    scene.bad = Some(2);
    scene.start().await.unwrap();
    assert_eq!(scene.under(), [2, 2, 1]);
    scene.bad = None;
    scene.rotate().await.unwrap();
    assert_eq!(scene.under(), [2, 2, 2]);
    assert!(scene.holds("FILE", 2) && !scene.path("FILE.new").exists());
    scene.put("FILE.new", 3);
    scene.rotate().await.unwrap();
    assert!(scene.under() == [3, 3, 3] && scene.holds("FILE", 3));
    scene.start().await.unwrap();
}

/// What takes the place of the old passphrase is what keys were wrapped by, whatever was put beside it meanwhile.
#[tokio::test]
async fn nothing_else_takes_the_place_of_the_old_one() {
    let mut scene = Scene::new().await;
    scene.put("FILE.new", 2);
    scene.meanwhile = Some(3);
    let why = text(scene.rotate().await);
    assert!(why.contains(&hex(&key(2).id())), "{why}");
    assert!(scene.under() == [2, 2, 2] && scene.holds("FILE", 1));
    assert!(text(scene.rotate().await).contains(&hex(&key(2).id())));
    assert_eq!(scene.under(), [2, 2, 2]);
    // By hand, where the daemon may not write. Then the other one has its turn.
    scene.put("FILE", 2);
    scene.rotate().await.unwrap();
    assert!(scene.under() == [3, 3, 3] && scene.holds("FILE", 3) && !scene.path("FILE.new").exists());
    scene.start().await.unwrap();
}
