"""The denoiser: noise law, ResNet-18 encoder with UNet decoder, inference and its guards."""
