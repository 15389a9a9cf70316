"""A minimal folder as ParaVision 6 writes it: one reconstruction of one experiment."""

import numpy as np


def write_bruker(
    folder, data, frequency_mhz=300.3, slope=0.5, volumes="FG_MOVIE", pixel=(0.3, 0.3, 1.5)
):
    """Write ``data`` (x, y, slices, volumes; stored values) as axial slices of a 2D scan."""
    folder.mkdir(parents=True)
    nx, ny, nz, nv = data.shape
    frames = nz * nv
    axial = "1 0 0 0 1 0 0 0 1"
    text = f"""##TITLE=Parameter List, ParaVision 6.0.1
##JCAMPDX=4.24
##DATATYPE=Parameter Values
##ORIGIN=Bruker BioSpin MRI GmbH
##OWNER=nmr
##$VisuVersion=3
##$VisuCreator=( 65 )
<ParaVision>
##$VisuCreatorVersion=( 65 )
<6.0.1>
##$VisuCoreFrameCount={frames}
##$VisuCoreDim=2
##$VisuCoreSize=( 2 )
{nx} {ny}
##$VisuCoreDimDesc=( 2 )
spatial spatial
##$VisuCoreExtent=( 2 )
{nx * pixel[0]:g} {ny * pixel[1]:g}
##$VisuCoreFrameThickness=( 1 )
{pixel[2]}
##$VisuCoreUnits=( 2, 65 )
<mm> <mm>
##$VisuCoreOrientation=( {nz}, 9 )
{" ".join([axial] * nz)}
##$VisuCorePosition=( {nz}, 3 )
{" ".join(f"-4 -5 {z * pixel[2]:g}" for z in range(nz))}
##$VisuCoreDataSlope=( {frames} )
{" ".join([str(slope)] * frames)}
##$VisuCoreDataOffs=( {frames} )
{" ".join(["0"] * frames)}
##$VisuCoreFrameType=MAGNITUDE_IMAGE
##$VisuCoreWordType=_16BIT_SGN_INT
##$VisuCoreByteOrder=littleEndian
##$VisuFGOrderDescDim=2
##$VisuFGOrderDesc=( 2 )
({nz}, <FG_SLICE>, <>, 0, 2) ({nv}, <{volumes}>, <>, 2, 0)
##$VisuGroupDepVals=( 2 )
(<VisuCoreOrientation>, 0) (<VisuCorePosition>, 0)
##$VisuAcqImagingFrequency={frequency_mhz}
##$VisuAcqFlipAngle=15
##END=
"""
    (folder / "visu_pars").write_text(text)
    stored = np.transpose(data, (3, 2, 1, 0)).astype("<i2")  # x runs fastest
    (folder / "2dseq").write_bytes(stored.tobytes())
