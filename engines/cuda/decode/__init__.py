"""Encoded tiles decoded on the GPU, straight into the encoder's input there.

A CUDA runner of an encoder makes one :class:`~pathgene_rt.engines.cuda.decode.tile_decoder.
TileDecoder` of its device (cheap: libraries are loaded when it is first asked), shows it as
``decoder``, and in ``_start_encoded(batch, span)`` does what ``_start`` does, except that where
``_start`` copies the tiles to the device it calls ::

    kept = self.decoder.decode_into(batch, input_address, stream)

with the device input of ``batch.shape`` bytes and the stream that the encoder then runs on.
``kept`` belongs to the ticket and must live until the stream has done the work; within the current
context, as all that holds device memory. EncodedTileError and EngineError pass on; nothing that
would have to be undone was enqueued then. ``close()`` once nothing is in flight, before the
device.
"""
