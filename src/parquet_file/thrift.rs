//! The part of Thrift's compact protocol that is needed to check Parquet's headers before the Parquet library reads
//! them. It allocates nothing.
//!
//! The format is described in thrift/doc/specs/thrift-compact-protocol.md. A struct is a sequence of fields, ended by a
//! zero byte. A field begins with a byte that holds its type and the difference of its number from that of the previous
//! field. Integers are zigzag varints.

use std::io::{self, Error, ErrorKind, Read};

/// The maximum nesting depth of structs and lists, as in the Parquet library.
const MAX_DEPTH: usize = 64;

/// The types of the fields that are read, by their numbers in the protocol.
pub const I32: u8 = 5;
pub const I64: u8 = 6;
pub const BINARY: u8 = 8;
pub const LIST: u8 = 9;
pub const STRUCT: u8 = 12;

/// The expected types of fields, by their numbers in the struct.
pub type Types<'a> = &'a [(i16, u8)];

/// A reader of the compact protocol.
pub struct Thrift<R> {
    input: R,
    /// The number of bytes read so far.
    pub read: u64,
}

impl<R: Read> Thrift<R> {
    pub fn new(input: R) -> Thrift<R> {
        Thrift { input, read: 0 }
    }

    /// Reads a struct. `each` is called with the number of every field; it reads the field's value and returns `true`,
    /// or returns `false` if it did not read it.
    ///
    /// # Errors
    /// A field that has another type than `types` gives, which the library would read as the expected type
    /// nevertheless.
    pub fn fields(
        &mut self,
        types: Types,
        mut each: impl FnMut(&mut Thrift<R>, i16) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut number = 0;
        while let Some(kind) = self.field(&mut number)? {
            if types.iter().any(|&(known, expected)| known == number && expected != kind) {
                return Err(broken(&format!("field {number} of a struct has type {kind}")));
            }
            if !each(self, number)? {
                self.skip(kind, MAX_DEPTH)?;
            }
        }
        Ok(())
    }

    /// The type of the next field; its number is stored in `number`. `None` at the end of the struct.
    fn field(&mut self, number: &mut i16) -> io::Result<Option<u8>> {
        let byte = self.byte()?;
        if byte & 15 == 0 {
            return Ok(None);
        }
        let step = i16::from(byte >> 4);
        *number = match step {
            0 => i16::try_from(self.int()?).map_err(|_| broken("a field's number is none"))?,
            _ => number.checked_add(step).ok_or_else(|| broken("a field's number is none"))?,
        };
        Ok(Some(byte & 15))
    }

    /// Reads an integer of any width.
    pub fn int(&mut self) -> io::Result<i64> {
        let word = self.varint()?;
        Ok((word >> 1) as i64 ^ -((word & 1) as i64))
    }

    /// Reads the type and the number of the elements of a list.
    pub fn list(&mut self) -> io::Result<(u8, u64)> {
        let byte = self.byte()?;
        let length = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
        Ok((byte & 15, length))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        let Some(depth) = depth.checked_sub(1) else { return Err(broken("structs in structs without end")) };
        match kind {
            1 | 2 => Ok(()), // the type of a boolean field contains its value
            3 => self.pass(1),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            BINARY => {
                let length = self.varint()?;
                self.pass(length)
            }
            LIST | 10 => {
                let (kind, length) = self.list()?;
                // the library skips no bytes for booleans in a list, so the file could be read in two ways
                if length > 0 && kind <= 2 {
                    return Err(broken("a list of truths"));
                }
                (0..length).try_for_each(|_| self.skip(kind, depth))
            }
            STRUCT => {
                let mut number = 0;
                while let Some(kind) = self.field(&mut number)? {
                    self.skip(kind, depth)?;
                }
                Ok(())
            }
            _ => Err(broken(&format!("a value of type {kind}"))),
        }
    }

    pub fn varint(&mut self) -> io::Result<u64> {
        let mut word = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            word |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(word);
            }
        }
        Err(broken("an integer of more than 64 bits"))
    }

    pub fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    pub fn pass(&mut self, length: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
        self.read += passed;
        if passed == length { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

/// The error for a file that violates the protocol.
pub fn broken(found: &str) -> Error {
    Error::new(ErrorKind::InvalidData, found)
}
