// SPDX-License-Identifier: Apache-2.0
//! Protobuf's wire format: keys, varints and lengths. It knows no schema.

use crate::decode::DecodeError;

/// The wire type of varints.
pub(crate) const VARINT: u64 = 0;
/// The wire type of eight bytes.
pub(crate) const FIXED64: u64 = 1;
/// The wire type of strings, bytes and messages.
pub(crate) const LENGTH_DELIMITED: u64 = 2;

/// One value on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message that are still to be read.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| wrong("proto: illegal tag"))?;
        let wire = match key & 7 {
            VARINT => Wire::Varint(self.varint()?),
            FIXED64 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            LENGTH_DELIMITED => {
                let length = usize::try_from(self.varint()?).map_err(|_| too_short())?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(wrong(&format!("proto: illegal wireType {other}"))),
        };
        Ok(Some((tag, wire)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(too_short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| too_short())
    }

    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(too_short)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(wrong("proto: integer overflow"))
    }
}

pub(crate) fn wrong(message: &str) -> DecodeError {
    DecodeError::Syntax {
        message: message.to_owned(),
    }
}

fn too_short() -> DecodeError {
    wrong("unexpected EOF")
}

pub(crate) fn string(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| wrong("proto: a string is not valid UTF-8"))
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        // Seven bits at a time, the lowest first.
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_key(out: &mut Vec<u8>, tag: u32, wire_type: u64) {
    put_varint(out, u64::from(tag) << 3 | wire_type);
}

/// A field with a varint. Negative numbers are sign-extended to 64 bits.
pub(crate) fn put_number(out: &mut Vec<u8>, tag: u32, number: i64) {
    put_key(out, tag, VARINT);
    put_varint(out, number.cast_unsigned());
}

/// A field with a string, bytes or a whole message.
pub(crate) fn put_bytes(out: &mut Vec<u8>, tag: u32, content: &[u8]) {
    put_key(out, tag, LENGTH_DELIMITED);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// A field with the message that `write` appends.
pub(crate) fn put_message<E>(
    out: &mut Vec<u8>,
    tag: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    put_key(out, tag, LENGTH_DELIMITED);
    let start = out.len();
    // Most messages are shorter than 128 bytes, and their length takes one byte.
    out.push(0);
    write(out)?;
    let mut length = Vec::with_capacity(4);
    put_varint(&mut length, (out.len() - start - 1) as u64);
    out.splice(start..=start, length);
    Ok(())
}
