"""The diffusers engine: models of diffusers that draw from texts and from images, on CUDA or the CPU.

Stable Diffusion and SDXL share the steps of their UNet (`continuous_batching`); every other pipeline runs by its own
`__call__` (`pipeline_calls`). From the order to the picture:

    channel -> encode (text encoders, first latents) -> continuous_batching (the UNet) -> decode (VAE) -> channel
"""
