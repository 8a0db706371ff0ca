"""The diffusers engine: any text-to-image model that `AutoPipelineForText2Image` loads, on CUDA or the CPU.

Stable Diffusion and SDXL share UNet steps (`step_loop`), every other pipeline runs by its own `__call__`
(`whole_calls`). From the order to the picture:

    channel -> preparing (text encoders, first latents) -> step_loop (the UNet) -> finishing (VAE, checker) -> channel
"""
