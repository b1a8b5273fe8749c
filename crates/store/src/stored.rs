//! The stored form of a block: made here, once, when it is first written, and undone here when it is read. Cleaning, parity
//! and recovery move and check the bytes as they are.
//!
//! ```text
//!   block 4096 bytes --[LZ4, when it saves an eighth]--> --[AES-256-XTS, on an encrypted line]--> stored bytes --> check
//!   compressed:  length of the LZ4 block 2 | LZ4 block | zeros to a multiple of 16
//! ```
//!
//! The check is XXH3-64 seeded by line, address and sequence number; on an encrypted line it is a keyed MAC over the same. The
//! tweak and the place in the MAC are address and sequence number, the keys are the line's own.

use crate::check::block_check;
use crate::keyring::{DataKey, Keyring};
use crate::location::GRANULE_BYTES;
use crate::{LineAttributes, StoreError};
use dolmen_kernels::{Seal, hkdf, lz4};
use dolmen_types::LineId;
use dolmen_types::limits::BLOCK_BYTES;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// A compressed block is kept only when it takes at most this much: an eighth less than the block.
const WORTH_BYTES: usize = BLOCK_BYTES - BLOCK_BYTES / 8;
/// Bytes of a compressed form that say how long the LZ4 block in it is.
const LENGTH_BYTES: usize = 2;

/// Blocks of an encrypted line lie below this address: 40 bits of the MAC's nonce.
pub(crate) const MAX_ENCRYPTED_LBA: u64 = 1 << 40;
/// Sequence numbers of writes to an encrypted line lie below this: 56 bits of the MAC's nonce.
pub(crate) const MAX_ENCRYPTED_SEQ: u64 = 1 << 56;

/// How stored bytes were made of a block: flags in log records and in the slots of leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form(pub(crate) u8);

impl Form {
    /// Compressed with LZ4.
    pub(crate) const LZ4: u8 = 1;
    /// Encrypted, and the check is a MAC.
    pub(crate) const ENCRYPTED: u8 = 2;

    /// The bytes are those of the block.
    pub(crate) fn is_plain(self) -> bool {
        self.0 == 0
    }

    /// The bytes are as many as the block's.
    pub(crate) fn is_whole(self) -> bool {
        (self.0 & !Form::ENCRYPTED) == 0
    }

    pub(crate) fn is_encrypted(self) -> bool {
        self.0 & Form::ENCRYPTED != 0
    }
}

/// One version of one block: what check, key and tweak belong to, for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockVersion {
    /// The line that it was written to.
    pub(crate) line: u64,
    /// Its address.
    pub(crate) lba: u64,
    /// The sequence number of the write.
    pub(crate) seq: u64,
}

/// What making a stored form came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// Bytes of it, a multiple of a granule.
    pub(crate) len: usize,
    pub(crate) form: Form,
    pub(crate) check: u64,
}

/// The cipher and the check of one line; `None` for a key that the cipher refuses, which no random one is.
fn line_seal(line: u64, key: &DataKey) -> Option<Seal> {
    let derive = |purpose: &[u8; 8]| {
        let mut out = Zeroizing::new([0; 64]);
        let mut info = [0; 16];
        info[..8].copy_from_slice(purpose);
        info[8..].copy_from_slice(&line.to_le_bytes());
        hkdf::derive(b"dolmen line", key.expose(), &info, out.as_mut());
        out
    };
    Seal::new(&derive(b"aes-xts."), &derive(b"mac-64.."))
}

/// Makes, checks and undoes stored forms: one per shard, with the keys of its lines.
pub(crate) struct Forms {
    lz4: lz4::Lz4,
    /// A compressed block on its way.
    scratch: Box<[u8]>,
    keyring: Keyring,
    /// Set up at a line's first use.
    ciphers: BTreeMap<u64, Seal>,
}

impl Forms {
    pub(crate) fn new(keyring: Keyring) -> Forms {
        let scratch = vec![0; LENGTH_BYTES + lz4::bound(BLOCK_BYTES)].into_boxed_slice();
        Forms { lz4: lz4::Lz4::new(), scratch, keyring, ciphers: BTreeMap::new() }
    }

    /// Takes in the key of a line.
    pub(crate) fn add_key(&mut self, line: u64, key: DataKey) {
        self.ciphers.remove(&line);
        self.keyring.insert(LineId(line), key);
    }

    /// Forgets the key of a line.
    pub(crate) fn forget_key(&mut self, line: u64) {
        self.ciphers.remove(&line);
        self.keyring.remove(LineId(line));
    }

    /// True when the line's key is here.
    pub(crate) fn has_key(&self, line: u64) -> bool {
        self.keyring.contains(LineId(line))
    }

    fn ciphers(&mut self, line: u64) -> Result<&mut Seal, StoreError> {
        match self.ciphers.entry(line) {
            std::collections::btree_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => {
                let key = self.keyring.key(LineId(line));
                let made = key.and_then(|key| line_seal(line, key));
                Ok(place.insert(made.ok_or(StoreError::NoKey(LineId(line)))?))
            }
        }
    }

    /// Makes the stored form of `block` at the start of `out`, which has room for a block. It is tried whether compressing
    /// pays when the attributes say so: whoever looked at the block already ([`Forms::packs`]) takes that out of them.
    ///
    /// # Panics
    /// When the key of an encrypted line is not here: [`Forms::has_key`] comes first, since going on would store plaintext.
    pub(crate) fn make(
        &mut self,
        attributes: LineAttributes,
        version: BlockVersion,
        block: &[u8],
        out: &mut [u8],
    ) -> Made {
        let packed = if attributes.compress { self.compress(block) } else { None };
        let (len, mut form) = packed.map_or((block.len(), Form(0)), |len| (len, Form(Form::LZ4)));
        let out = &mut out[..len];
        if !attributes.encrypt {
            out.copy_from_slice(if packed.is_some() { &self.scratch[..len] } else { block });
            let check = block_check(version.line, version.lba, version.seq, out);
            return Made { len, form, check };
        }
        form.0 |= Form::ENCRYPTED;
        let scratch = std::mem::take(&mut self.scratch);
        let seal = self.ciphers(version.line).expect("whoever stages a block has seen that the key is here");
        let plain = if packed.is_some() { &scratch[..len] } else { block };
        let check = seal.seal(&tweak(version), place(version), plain, out);
        self.scratch = scratch;
        Made { len, form, check }
    }

    /// The check of a block that is stored as it is.
    pub(crate) fn plain_check(version: BlockVersion, block: &[u8]) -> u64 {
        block_check(version.line, version.lba, version.seq, block)
    }

    /// False for a block that does not look worth compressing, and is stored as it is.
    pub(crate) fn packs(&self, block: &[u8]) -> bool {
        !lz4::looks_incompressible(block)
    }

    /// The compressed form of a block in the scratch memory: its length, when it is worth keeping.
    fn compress(&mut self, block: &[u8]) -> Option<usize> {
        let len = self.lz4.compress(block, &mut self.scratch[LENGTH_BYTES..])?;
        let used = LENGTH_BYTES + len;
        let stored = used.next_multiple_of(GRANULE_BYTES as usize);
        if stored > WORTH_BYTES {
            return None;
        }
        self.scratch[..LENGTH_BYTES].copy_from_slice(&u16::try_from(len).ok()?.to_le_bytes());
        self.scratch[used..stored].fill(0);
        Some(stored)
    }

    /// Whether stored bytes are what was written as this version. Fails when the key that would tell is not here. Whoever serves
    /// blocks of an encrypted line has seen that their form is encrypted.
    pub(crate) fn holds(
        &mut self,
        form: Form,
        version: BlockVersion,
        stored: &[u8],
        check: u64,
    ) -> Result<bool, StoreError> {
        if form.is_encrypted() {
            return Ok(self.ciphers(version.line)?.check(place(version), stored) == check);
        }
        Ok(block_check(version.line, version.lba, version.seq, stored) == check)
    }

    /// Turns stored bytes back into the block, if they are what was written as this version. False, with whatever in `block`, if not
    /// or when they don't make up a block.
    pub(crate) fn open(
        &mut self,
        form: Form,
        version: BlockVersion,
        stored: &[u8],
        check: u64,
        block: &mut [u8],
    ) -> bool {
        if form.0 == Form::ENCRYPTED && stored.len() == block.len() {
            let Ok(seal) = self.ciphers(version.line) else { return false };
            return seal.open(&tweak(version), place(version), check, stored, block);
        }
        self.holds(form, version, stored, check) == Ok(true) && self.undo(form, version, stored, block)
    }

    /// [`Forms::open`] of a form that is as long as the block, where it lies.
    pub(crate) fn open_in_place(
        &mut self,
        form: Form,
        version: BlockVersion,
        check: u64,
        block: &mut [u8],
    ) -> bool {
        if form.0 == Form::ENCRYPTED {
            let Ok(seal) = self.ciphers(version.line) else { return false };
            return seal.open_in_place(&tweak(version), place(version), check, block);
        }
        form.is_plain() && self.holds(form, version, block, check) == Ok(true)
    }

    /// Turns stored bytes that hold back into the block. False when they don't make up a block.
    pub(crate) fn undo(
        &mut self,
        form: Form,
        version: BlockVersion,
        stored: &[u8],
        block: &mut [u8],
    ) -> bool {
        if form.is_whole() && stored.len() != block.len() {
            return false;
        }
        match form.0 {
            0 => block.copy_from_slice(stored),
            Form::ENCRYPTED => {
                let Ok(ciphers) = self.ciphers(version.line) else { return false };
                ciphers.decrypt(&tweak(version), stored, block);
            }
            Form::LZ4 => return expand(stored, block),
            both if both == Form::LZ4 | Form::ENCRYPTED => {
                if !(GRANULE_BYTES as usize..=WORTH_BYTES).contains(&stored.len()) {
                    return false;
                }
                let mut scratch = std::mem::take(&mut self.scratch);
                let open = self.ciphers(version.line).is_ok_and(|ciphers| {
                    ciphers.decrypt(&tweak(version), stored, &mut scratch[..stored.len()]);
                    true
                });
                let expanded = open && expand(&scratch[..stored.len()], block);
                self.scratch = scratch;
                return expanded;
            }
            _ => return false,
        }
        true
    }
}

/// Expands a compressed form.
fn expand(stored: &[u8], block: &mut [u8]) -> bool {
    let Some((length, rest)) = stored.split_first_chunk::<LENGTH_BYTES>() else { return false };
    let packed = rest.get(..usize::from(u16::from_le_bytes(*length)));
    packed.is_some_and(|packed| lz4::expand(packed, block))
}

/// The tweak of a version under its line's key: address, sequence number.
fn tweak(version: BlockVersion) -> [u8; 16] {
    let mut tweak = [0; 16];
    tweak[..8].copy_from_slice(&version.lba.to_le_bytes());
    tweak[8..].copy_from_slice(&version.seq.to_le_bytes());
    tweak
}

/// The place of a version in its line's MAC: 40 bits of address, 56 of sequence number.
fn place(version: BlockVersion) -> [u8; 12] {
    let mut place = [0; 12];
    place[..5].copy_from_slice(&version.lba.to_le_bytes()[..5]);
    place[5..].copy_from_slice(&version.seq.to_le_bytes()[..7]);
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEVEN: BlockVersion = BlockVersion { line: 7, lba: 0x12_3456_789a, seq: 0xab_cdef_0123_4567 };

    fn forms() -> Forms {
        let mut keyring = Keyring::default();
        keyring.insert(LineId(7), DataKey::new([0x42; 32]));
        Forms::new(keyring)
    }

    fn noise() -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(0xd129_42d9_57d5_9f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state.to_be_bytes()[0]
        };
        (0..BLOCK_BYTES).map(|_| next()).collect()
    }

    fn text() -> Vec<u8> {
        b"A dolmen is a few standing stones that carry one slab. "
            .iter()
            .copied()
            .cycle()
            .take(4096)
            .collect()
    }

    fn all() -> impl Iterator<Item = LineAttributes> {
        (0..4).map(|n| LineAttributes { compress: n & 1 != 0, encrypt: n & 2 != 0 })
    }

    #[test]
    fn every_form_comes_back_and_checks() {
        let mut forms = forms();
        for attributes in all() {
            let version = if attributes.encrypt { SEVEN } else { BlockVersion { line: 8, ..SEVEN } };
            for block in [noise(), text()] {
                let mut out = vec![0xee; BLOCK_BYTES];
                let made = forms.make(attributes, version, &block, &mut out);
                let stored = &out[..made.len];
                assert_eq!(made.len % 16, 0);
                assert_eq!(made.form.is_encrypted(), attributes.encrypt);
                assert_eq!(made.len < 300, attributes.compress && block == text());
                assert_eq!(
                    stored == block,
                    attributes == LineAttributes::default() || (!attributes.encrypt && block == noise())
                );
                assert_eq!(forms.holds(made.form, version, stored, made.check), Ok(true));
                let mut back = vec![0; BLOCK_BYTES];
                assert!(forms.undo(made.form, version, stored, &mut back) && back == block);
                assert!(forms.open(made.form, version, stored, made.check, &mut back) && back == block);
                assert!(!forms.open(made.form, version, stored, made.check ^ 1, &mut back));
                if made.form.is_whole() {
                    assert!(forms.open_in_place(made.form, version, made.check, &mut out) && out == block);
                }
            }
        }
    }

    #[test]
    fn a_check_belongs_to_its_version_and_its_bytes() {
        let mut forms = forms();
        for attributes in all() {
            let version = if attributes.encrypt { SEVEN } else { BlockVersion { line: 8, ..SEVEN } };
            let mut out = vec![0; BLOCK_BYTES];
            let made = forms.make(attributes, version, &text(), &mut out);
            for other in [
                BlockVersion { lba: version.lba ^ 1, ..version },
                BlockVersion { lba: version.lba ^ 1 << 39, ..version },
                BlockVersion { seq: version.seq ^ 1, ..version },
                BlockVersion { seq: version.seq ^ 1 << 55, ..version },
            ] {
                assert_eq!(
                    forms.holds(made.form, other, &out[..made.len], made.check),
                    Ok(false),
                    "{other:?}"
                );
            }
            out[5] ^= 1;
            assert_eq!(forms.holds(made.form, version, &out[..made.len], made.check), Ok(false));
        }
    }

    #[test]
    fn without_its_key_a_line_is_locked() {
        let mut forms = forms();
        forms.forget_key(7);
        let locked = forms.holds(Form(Form::ENCRYPTED), SEVEN, &noise(), 0);
        assert_eq!(locked, Err(StoreError::NoKey(LineId(7))));
        assert!(!forms.undo(Form(Form::ENCRYPTED), SEVEN, &noise(), &mut vec![0; BLOCK_BYTES]));
    }

    #[test]
    fn nonsense_is_no_block() {
        let mut forms = forms();
        let mut block = vec![0; BLOCK_BYTES];
        for (form, len) in
            [(0, 4080), (1, 0), (1, 16), (2, 16), (3, 0), (3, 15), (3, 4096), (4, 4096), (255, 32)]
        {
            assert!(!forms.undo(Form(form), SEVEN, &noise()[..len], &mut block), "form {form}, {len} bytes");
        }
        for i in 0..200 {
            let _ = forms.undo(Form(1), SEVEN, &noise()[i..i + 48], &mut block);
            let _ = forms.undo(Form(3), SEVEN, &noise()[i..i + 48], &mut block);
        }
    }

    /// What is on drives depends on these derivations: they may not change.
    #[test]
    fn stored_bytes_are_golden() {
        let mut forms = forms();
        let mut out = vec![0; BLOCK_BYTES];
        let made = forms.make(LineAttributes { compress: false, encrypt: true }, SEVEN, &text(), &mut out);
        let sum = dolmen_kernels::check64(0, &out);
        let expected = (4096, Form(2), 0x27c2_2da2_d277_efcc, 0x0381_f62a_e42a_c295);
        assert_eq!((made.len, made.form, sum, made.check), expected);
        // A literal, a match of 4090 at distance 1, five literals.
        let packed = [&[26, 0, 0x1f, b'a', 1, 0][..], &[255; 15], &[246, 0x50], b"aaaaa", &[0; 4]].concat();
        assert!(forms.undo(Form(1), SEVEN, &packed, &mut out));
        assert_eq!(out, [b'a'; BLOCK_BYTES]);
    }
}
